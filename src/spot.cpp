#include "spot.hpp"

#include "shared.hpp"

namespace pgjobs::spot {

static pg_atomic_uint64 *place_of(const Row &row) {
    uint32 hash =
        hash_combine(hash_combine(row.key, murmurhash32(row.table)), murmurhash32(MyDatabaseId));
    return &shared->spots[hash % lengthof(shared->spots)];
}

static pg::Value value_of(const ItemPointerData &spot) {
    auto *copy = static_cast<ItemPointer>(palloc(sizeof(ItemPointerData)));
    *copy = spot;
    return pg::value(PointerGetDatum(copy));
}

pg::Value known(const Row &row) {
    uint64 packed = pg_atomic_read_u64(place_of(row));
    ItemPointerData spot;
    ItemPointerSet(&spot, static_cast<BlockNumber>(packed >> 16),
                   static_cast<OffsetNumber>(packed));
    return value_of(spot);
}

pg::Value note(const Row &row, int column) {
    ItemPointerData spot = *reinterpret_cast<ItemPointer>(DatumGetPointer(pg::datum_at(0, column)));
    pg_atomic_write_u64(place_of(row), static_cast<uint64>(ItemPointerGetBlockNumberNoCheck(&spot))
                                               << 16 |
                                           ItemPointerGetOffsetNumberNoCheck(&spot));
    return value_of(spot);
}

} // namespace pgjobs::spot
