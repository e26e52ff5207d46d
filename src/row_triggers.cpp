#include "row_triggers.hpp"

#include "pg/spi.hpp"
#include "row_settings.hpp"

namespace pgjobs::row_triggers {

using row_settings::add_word;

constexpr const char *settings_trigger = "pgjobs_settings";

static const char *name_of(Oid table) {
    return quote_qualified_identifier(get_namespace_name(get_rel_namespace(table)),
                                      get_rel_name(table));
}

// Each as an SQL literal or identifier, with commas.
template <class F> static const char *joined(const List *words, F quoted) {
    StringInfoData text;
    initStringInfo(&text);
    ListCell *cell;
    foreach (cell, words)
        appendStringInfo(&text, "%s%s", text.len > 0 ? ", " : "",
                         quoted(static_cast<const char *>(lfirst(cell))));
    return text.data;
}

static void make_trigger(Oid table, const char *trigger, const char *when) {
    const char *name = quote_identifier(trigger);
    pg::run_utility(psprintf("CREATE OR REPLACE TRIGGER %s %s", name, when));
    pg::run_utility(
        psprintf("ALTER TRIGGER %s ON %s DEPENDS ON EXTENSION pgjobs", name, name_of(table)));
}

// The trigger whose columns and arguments are the settings. The server keeps their names and their
// order through renames and dumps.
static void make_settings_trigger(Oid table, const char *trigger, const List *columns,
                                  const List *words) {
    make_trigger(table, trigger,
                 psprintf("BEFORE UPDATE OF %s ON %s FOR EACH STATEMENT "
                          "EXECUTE FUNCTION pgjobs._row_changed(%s)",
                          joined(columns, quote_identifier), name_of(table),
                          joined(words, quote_literal_cstr)));
}

// Those AFTER a change fire always: what replication applies is announced, too, though not judged.
static void turn_on(Oid oid) {
    const char *name = name_of(oid);
    Relation table = relation_open(oid, NoLock);
    StringInfoData commands;
    initStringInfo(&commands);
    const TriggerDesc *triggers = table->trigdesc;
    for (int i = 0; triggers != nullptr && i < triggers->numtriggers; i++) {
        const Trigger &trigger = triggers->triggers[i];
        if (is_row_trigger(&trigger) && !trigger.tgisclone)
            appendStringInfo(&commands, "%s ENABLE %s TRIGGER %s", commands.len > 0 ? "," : "",
                             TRIGGER_FOR_AFTER(trigger.tgtype) ? "ALWAYS" : "",
                             quote_identifier(trigger.tgname));
    }
    relation_close(table, NoLock);
    pg::run_utility(psprintf("ALTER TABLE %s%s%s",
                             get_rel_relkind(oid) == RELKIND_RELATION ? "ONLY " : "", name,
                             commands.data));
}

static void make_row_triggers(Oid table, const char *status) {
    const char *name = name_of(table);
    const char *column = quote_identifier(status);
    const char *when = psprintf("ON %s FOR EACH ROW WHEN (OLD.%s IS DISTINCT FROM NEW.%s) "
                                "EXECUTE FUNCTION pgjobs._row_changed()",
                                name, column, column);
    make_trigger(table, "pgjobs_changing", psprintf("BEFORE UPDATE %s", when));
    make_trigger(table, "pgjobs_changed", psprintf("AFTER UPDATE %s", when));
    make_trigger(
        table, "pgjobs_added",
        psprintf("AFTER INSERT ON %s FOR EACH ROW EXECUTE FUNCTION pgjobs._row_changed()", name));
    turn_on(table);
}

// They come first.
static List *home_words(int64 home) {
    return add_word(add_word(NIL, "home"), psprintf(INT64_FORMAT, home));
}

void make(Oid table, int64 home, const List *columns, List *words, const char *status) {
    make_settings_trigger(table, settings_trigger, columns, list_concat(home_words(home), words));
    make_row_triggers(table, status);
}

static const Trigger *settings_of(Relation table) {
    const TriggerDesc *triggers = table->trigdesc;
    for (int i = 0; triggers != nullptr && i < triggers->numtriggers; i++)
        if (has_settings(&triggers->triggers[i]))
            return &triggers->triggers[i];
    return nullptr;
}

void set_home(Oid oid, int64 home) {
    Relation table = relation_open(oid, NoLock);
    const Trigger *settings = settings_of(table);
    List *columns = NIL;
    List *words = home_words(home);
    for (int i = 0; i < settings->tgnattr; i++)
        columns = add_word(
            columns,
            pstrdup(
                NameStr(TupleDescAttr(RelationGetDescr(table), settings->tgattr[i] - 1)->attname)));
    for (int i = 2; i < settings->tgnargs; i++)
        words = add_word(words, pstrdup(settings->tgargs[i]));
    const char *name = pstrdup(settings->tgname);
    relation_close(table, NoLock);
    make_settings_trigger(oid, name, columns, words);
    turn_on(oid); // a restore with --disable-triggers leaves them as ordinary ones, or off
}

List *names(Relation table) {
    List *found = NIL;
    const TriggerDesc *triggers = table->trigdesc;
    for (int i = 0; triggers != nullptr && i < triggers->numtriggers; i++)
        if (is_row_trigger(&triggers->triggers[i]) && !triggers->triggers[i].tgisclone)
            found = add_word(found, pstrdup(triggers->triggers[i].tgname));
    return found;
}

void drop(Oid table, const List *names) {
    ListCell *cell;
    foreach (cell, names)
        pg::run_utility(psprintf("DROP TRIGGER %s ON %s",
                                 quote_identifier(static_cast<char *>(lfirst(cell))),
                                 name_of(table)));
}

} // namespace pgjobs::row_triggers
