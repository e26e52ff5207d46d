#include "announce.hpp"

#include "attachment.hpp"
#include "settings.hpp"

namespace pgjobs::announce {

constexpr int batch = 512;

static size_t ring_size() { return size_t{bytes_per_text} * settings::event_buffer; }

static char *ring_of(const Database *database) {
    return announcements + ring_size() * static_cast<size_t>(index_of(database));
}

// ---- the ring: a length, then as many bytes; either may go round its end ----

static void copy_in(Database *database, const void *data, size_t length) {
    size_t place = database->next_text % ring_size();
    size_t first = Min(length, ring_size() - place);
    memcpy(ring_of(database) + place, data, first);
    memcpy(ring_of(database), static_cast<const char *>(data) + first, length - first);
    database->next_text += length;
}

static void copy_out(Database *database, void *data, size_t length) {
    size_t place = database->first_text % ring_size();
    size_t first = Min(length, ring_size() - place);
    memcpy(data, ring_of(database) + place, first);
    memcpy(static_cast<char *>(data) + first, ring_of(database), length - first);
    database->first_text += length;
}

void put(Database *database, const Text &text) {
    auto length = static_cast<uint16>(text.length);
    uint64 used = database->next_text - database->first_text;
    if (text.length > longest_text || used + sizeof(length) + length > ring_size()) {
        pg_atomic_write_u32(&database->notify_all, 1);
        return;
    }
    copy_in(database, &length, sizeof(length));
    copy_in(database, text.data, length);
}

void drop_all(Database *database) { database->first_text = database->next_text; }

// ---- sending ----

static bool take(Database *database, char *text) {
    return pg::locked(shared->events_lock, LW_EXCLUSIVE, [&] {
        if (database->first_text == database->next_text)
            return false;
        uint16 length;
        copy_out(database, &length, sizeof(length));
        copy_out(database, text, length);
        return true;
    });
}

bool send(Database *database) {
    auto *text = static_cast<char *>(palloc(longest_text));
    for (int i = 0; i < batch; i++) {
        if (!take(database, text))
            return false;
        Async_Notify(text, text + strlen(text) + 1);
    }
    return true;
}

const char *resync_of(const char *table) {
    StringInfoData payload;
    initStringInfo(&payload);
    appendStringInfoString(&payload, "{\"table\": ");
    escape_json(&payload, table);
    appendStringInfoString(&payload, ", \"resync\": true}");
    return payload.data;
}

void send_resyncs() {
    ListCell *cell;
    foreach (cell, attached_tables()) {
        const Attachment *attachment = find_attachment(lfirst_oid(cell));
        if (attachment != nullptr && attachment->at_home && attachment->channel != nullptr)
            Async_Notify(attachment->channel, resync_of(attachment->name));
    }
}

} // namespace pgjobs::announce
