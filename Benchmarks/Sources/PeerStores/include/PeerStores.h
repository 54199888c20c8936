#ifndef PEER_STORES_H
#define PEER_STORES_H
#include "CBench.h"
#ifdef __cplusplus
extern "C" {
#endif
const bench_store *bench_store_lmdb(void);
const bench_store *bench_store_sqlite(void);
const bench_store *bench_store_rocksdb(void);
#ifdef __cplusplus
}
#endif
#endif
