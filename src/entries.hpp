// Notes of a transaction. Each carries the nesting level of the subtransaction that made it. Those
// of a level stand together at the end, so that its abort cuts them off and its commit hands them
// to its parent.
#pragma once

#include "pg/server.hpp"

namespace pgjobs {

// A growing array in TopTransactionContext; T has a member `level`.
template <class T> struct Entries {
    T *data;
    int count;
    int space;
};

// Something that happened, by the level of the subtransaction in which it did; 0: it did not.
struct Mark {
    int level;
};

template <class T> T *append(Entries<T> *entries) {
    if (entries->count == entries->space) {
        int space = entries->space == 0 ? 16 : entries->space * 2;
        Size size = sizeof(T) * space;
        entries->data = static_cast<T *>(entries->data == nullptr
                                             ? MemoryContextAllocHuge(TopTransactionContext, size)
                                             : repalloc_huge(entries->data, size));
        entries->space = space;
    }
    T *entry = &entries->data[entries->count++];
    *entry = {};
    entry->level = GetCurrentTransactionNestLevel();
    return entry;
}

// Ends the entries of a subtransaction: undone, or its parent's. For callbacks.
template <class T> void cut(Entries<T> *entries, int level) {
    while (entries->count > 0 && entries->data[entries->count - 1].level >= level)
        entries->count--;
}

template <class T> void hand_up(Entries<T> *entries, int level) {
    for (int i = entries->count; i > 0 && entries->data[i - 1].level >= level; i--)
        entries->data[i - 1].level = level - 1;
}

} // namespace pgjobs
