#ifndef PEER_TREES_H
#define PEER_TREES_H
#include "CBench.h"
#ifdef __cplusplus
extern "C" {
#endif
/// absl::btree_map and std::map: not durable, the floor. LMDB and a B+-tree on libpmemobj: durable.
const bench_tree *bench_tree_absl(void);
const bench_tree *bench_tree_std(void);
const bench_tree *bench_tree_lmdb(void);
const bench_tree *bench_tree_pmemobj(void);
#ifdef __cplusplus
}
#endif
#endif
