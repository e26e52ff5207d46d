#include "row_settings.hpp"

#include "attachment.hpp"
#include "payload.hpp"
#include "pg/function.hpp"

namespace pgjobs::row_settings {

[[noreturn]] static void bad_stages(const char *detail) {
    ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
            errmsg("argument \"stages\" is not as it should be"), errdetail("%s", detail),
            errhint("Give an array of objects such as {\"stage\": \"run\", \"waiting\": \"new\", "
                    "\"working\": \"running\", \"done\": \"success\", \"failed\": \"error\", "
                    "\"stale_after\": \"1 hour\"}; the last two may be left out."));
    pg_unreachable();
}

static void check_state(const char *state, Oid type) {
    if (state[0] == '\0' || strlen(state) >= NAMEDATALEN)
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("\"%s\" cannot be a state", pg::shown(state)),
                errhint("A state has 1 to %d bytes.", NAMEDATALEN - 1));
    if (get_typtype(type) == TYPTYPE_ENUM &&
        !SearchSysCacheExists2(ENUMTYPOIDNAME, ObjectIdGetDatum(type), CStringGetDatum(state)))
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("\"%s\" is not a value of type %s", state, format_type_be(type)),
                errhint("Use the values that the type has, or add one: ALTER TYPE ... ADD VALUE."));
}

// ---- stages ----

enum Member { stage, waiting, working, done, failed, stale_after, members };
static const char *const member_names[members] = {"stage", "waiting", "working",
                                                  "done",  "failed",  "stale_after"};

struct Stage {
    char *texts[members];
};

static int member_of(const JsonbValue *name) {
    for (int i = 0; i < members; i++)
        if (static_cast<size_t>(name->val.string.len) == strlen(member_names[i]) &&
            strncmp(name->val.string.val, member_names[i],
                    static_cast<size_t>(name->val.string.len)) == 0)
            return i;
    bad_stages(psprintf(
        "A stage has no member \"%s\".",
        pg::shown(pnstrdup(name->val.string.val, static_cast<Size>(name->val.string.len)))));
}

static Stage read_stage(const JsonbValue *object) {
    if (object->type != jbvBinary || !JsonContainerIsObject(object->val.binary.data))
        bad_stages("Something in it is not an object.");
    Stage result{};
    JsonbIterator *iterator = JsonbIteratorInit(object->val.binary.data);
    JsonbValue value;
    JsonbIteratorNext(&iterator, &value, true);
    while (JsonbIteratorNext(&iterator, &value, true) == WJB_KEY) {
        int member = member_of(&value);
        JsonbIteratorNext(&iterator, &value, true);
        if (value.type == jbvNull)
            continue; // as if it were not there
        if (value.type != jbvString)
            bad_stages(psprintf("\"%s\" is not a string.", member_names[member]));
        result.texts[member] =
            pnstrdup(value.val.string.val, static_cast<Size>(value.val.string.len));
    }
    for (int i = stage; i <= done; i++)
        if (result.texts[i] == nullptr)
            bad_stages(psprintf("A stage lacks \"%s\".", member_names[i]));
    return result;
}

static const char *microseconds_of(const char *text) {
    if (text == nullptr)
        return "0";
    Datum interval = DirectFunctionCall3(interval_in, CStringGetDatum(text),
                                         ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
    return psprintf(INT64_FORMAT,
                    pg::microseconds(DatumGetIntervalP(interval), "stale_after", 1000));
}

static void check_stage(const Stage &one, Oid type) {
    check_name(one.texts[stage], "stage");
    for (int i = waiting; i <= failed; i++)
        if (one.texts[i] != nullptr)
            check_state(one.texts[i], type);
    for (int i : {waiting, done, failed})
        if (one.texts[i] != nullptr && strcmp(one.texts[i], one.texts[working]) == 0)
            bad_stages(
                psprintf("Stage \"%s\" has \"%s\" twice.", one.texts[stage], one.texts[working]));
}

// A row in a state in which somebody works, or for which he waits, must be of one stage only.
static void check_apart(const Stage &one, const Stage &other) {
    if (strcmp(one.texts[stage], other.texts[stage]) == 0)
        bad_stages(psprintf("Two stages are called \"%s\".", one.texts[stage]));
    if (strcmp(one.texts[waiting], other.texts[waiting]) == 0)
        bad_stages(psprintf("Two stages wait for \"%s\".", one.texts[waiting]));
    for (int i : {waiting, working})
        for (int j : {waiting, working})
            if (i != j || i == working)
                if (strcmp(one.texts[i], other.texts[j]) == 0)
                    bad_stages(psprintf("\"%s\" belongs to two stages.", one.texts[i]));
}

List *add_stages(List *words, Jsonb *stages, Oid type) {
    if (!JB_ROOT_IS_ARRAY(stages) || JB_ROOT_IS_SCALAR(stages))
        bad_stages("It is not an array.");
    auto count = static_cast<int>(JB_ROOT_COUNT(stages));
    if (count == 0 || count > most_stages)
        bad_stages(psprintf("It has %d elements; 1 to %d are possible.", count, most_stages));
    auto *all = static_cast<Stage *>(palloc(sizeof(Stage) * static_cast<size_t>(count)));
    for (int i = 0; i < count; i++) {
        all[i] = read_stage(getIthJsonbValueFromContainer(&stages->root, static_cast<uint32>(i)));
        check_stage(all[i], type);
        for (int j = 0; j < i; j++)
            check_apart(all[i], all[j]);
        words = add_word(words, "stage");
        for (int member = stage; member <= failed; member++)
            words = add_word(words, all[i].texts[member] != nullptr ? all[i].texts[member] : "");
        words = add_word(words, microseconds_of(all[i].texts[stale_after]));
    }
    return words;
}

// ---- transitions ----

[[noreturn]] static void bad_transitions() {
    ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
            errmsg("argument \"transitions\" is not as it should be"),
            errhint("Give an object that says where a row may go from a state, beside what the "
                    "stages do: {\"new\": [\"cancelled\"], \"error\": [\"new\"]}."));
    pg_unreachable();
}

static List *add_transition(List *words, const char *from, const JsonbValue *to, Oid type) {
    if (to->type != jbvString)
        bad_transitions();
    char *state = pnstrdup(to->val.string.val, static_cast<Size>(to->val.string.len));
    check_state(state, type);
    return add_word(add_word(add_word(words, "transition"), from), state);
}

List *add_transitions(List *words, Jsonb *transitions, Oid type) {
    if (transitions == nullptr)
        return words;
    if (!JB_ROOT_IS_OBJECT(transitions))
        bad_transitions();
    JsonbIterator *iterator = JsonbIteratorInit(&transitions->root);
    JsonbValue value;
    JsonbIteratorNext(&iterator, &value, true);
    while (JsonbIteratorNext(&iterator, &value, true) == WJB_KEY) {
        char *from = pnstrdup(value.val.string.val, static_cast<Size>(value.val.string.len));
        check_state(from, type);
        JsonbIteratorNext(&iterator, &value, true);
        if (value.type != jbvBinary || !JsonContainerIsArray(value.val.binary.data))
            bad_transitions();
        for (uint32 i = 0; i < JsonContainerSize(value.val.binary.data); i++)
            words = add_transition(words, from,
                                   getIthJsonbValueFromContainer(value.val.binary.data, i), type);
    }
    return words;
}

void check_channel(const char *channel) { pg::check_text(channel, "channel", NAMEDATALEN - 1); }

} // namespace pgjobs::row_settings
