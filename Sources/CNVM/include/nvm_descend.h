// The way from a tree's root to a leaf, for keys that are one word.
#ifndef NVM_DESCEND_H
#define NVM_DESCEND_H

#include <stdint.h>

// Where an inner node (NVMBTree/InnerNode.swift, which is laid out by these) has what, and where a leaf has
// (NVMBTree/Layout/LeafLayout.swift, likewise).
#define NVM_INNER_SIZE 1280
#define NVM_INNER_COUNT 8
#define NVM_INNER_PIVOTS 16
#define NVM_INNER_GUIDE 64
#define NVM_INNER_BASE 224
#define NVM_INNER_DROPPED 232
#define NVM_INNER_CHILDREN 256
#define NVM_INNER_HEADS 576
#define NVM_INNER_CAPACITY 79
#define NVM_LEAF_SHIFT 9
#define NVM_LEAF_PRINTS 16
#define NVM_LEAF_FIRST_SLOT 48
// Of the first word, the bits that tell which slots are live.
#define NVM_LEAF_LIVE 0xFFFFFFFu

// Where a descent arrived: the leaf, and the value of its lock word at a moment when it was unlocked and this its way.
// While the lock word keeps that value the leaf's range stays what it is: ranges change with the lock held only.
struct nvm_place {
  uint64_t version;
  uint64_t leaf;
};
// The version where there is none.
#define NVM_NO_PLACE 1

// One try of the optimistic descent; takes no lock. NVM_NO_PLACE where a writer was met: the caller starts over. The
// leaf's lines are on their way to the cache when it returns.
//
// It is one function without calls, and stores next to nothing: an operation's way down overlaps with the fence of the
// operation before, but a processor keeps the stores behind a fence in a queue (of 64 on a recent one) and stands
// still when that is full.
typedef struct nvm_place nvm_descent(const void *root, const char *nodes, const char *locks, const char *leaves,
                                     uint64_t head);
extern nvm_descent *nvm_best_descent;
// The one for processors without wide vectors.
nvm_descent nvm_descend_by_heads;

static inline struct nvm_place nvm_descend(const void *root, const void *nodes, const void *locks,
                                           const void *leaves, uint64_t head) {
  return nvm_best_descent(root, (const char *)nodes, (const char *)locks, (const char *)leaves, head);
}

// Works a node's guide out: of each head the 16 bits that tell it from the others, if any do.
//
//     guide[i] = (head[i] - head[0]) >> dropped        dropped: the least for which all of them have 16 bits
//
// A key whose 16 bits are those of no separator has its place; else the heads decide. Without a guide a search would
// fetch ten lines of heads in the place of three, and a tree's lowest nodes would take twice the cache.
void nvm_inner_guide(void *inner);

// How many separators of a node are <= a key that is a word: the child to follow. One look, as each step of nvm_descend.
uint64_t nvm_inner_child(const void *inner, uint64_t head);

// Puts a separator in place i and a child in place i + 1 of an inner node whose keys are words and which is locked.
// `count` separators are there, fewer than NVM_INNER_CAPACITY.
void nvm_inner_insert(void *inner, int count, int i, uint64_t head, uint32_t child);

#endif
