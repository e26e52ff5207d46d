"""What is told of the figures: the table, the targets, the chart."""

import statistics

COLUMNS = [  # title, width, path in the figures, format
    ("jobs/s", 9, "rate", "{:.0f}"),
    ("CPU us/job", 11, "cpu_us_per_job", "{:.1f}"),
    ("WAL B/job", 10, "wal_bytes_per_job", "{:.0f}"),
    ("enqueue us", 17, "enqueue", ""),
    ("claim us", 17, "claim", ""),
    ("complete us", 17, "complete", ""),
]


def median(runs):
    """The median of each number in nested figures of the same form."""
    if isinstance(runs[0], dict):
        return {key: median([run[key] for run in runs if key in run]) for key in runs[0]}
    return statistics.median(runs) if isinstance(runs[0], (int, float)) else runs[0]


def base_of(medians):
    """The textbook queue that the others of a scenario are compared with; a log is compared with PgQ."""
    return next((medians[name] for name in ("textbook", "textbook-kept", "textbook-notify", "pgq") if name in medians), None)


def ratio(figures, base):
    return figures["rate"] / base["rate"] if base and base.get("rate") and "rate" in figures else None


def cells(figures):
    for _, width, path, form in COLUMNS:
        if form:
            text = form.format(figures[path]) if figures.get(path) else ""
        else:  # p50 / p99
            latency = figures.get("latency", {})
            latency = latency.get(path) or (latency.get("combined") if path == "claim" else None)
            text = f"{latency['p50']:.0f} / {latency['p99']:.0f}" if latency else ""
        yield text.rjust(width)


def print_head():
    print("Ratios: of jobs/s, textbook = 1, among logs PgQ = 1. Times of calls: p50 / p99.")
    print(f"{'scenario':22s}{'system':16s}" + "ratio".rjust(6) + "".join(c[0].rjust(c[1]) for c in COLUMNS))


def print_rows(scenario, medians, notes):
    base = base_of(medians) if scenario.compares_rates else None
    for system, figures in medians.items():
        share = ratio(figures, base)
        line = f"{scenario.name:22s}{system:16s}" + (f"{share:.2f}" if share else "").rjust(6)
        print((line + "".join(cells(figures)) + "  " + scenario.remark(figures)).rstrip(), flush=True)
    for system, note in notes.items():
        print(f"{scenario.name:22s}{system:16s}  {note}", flush=True)


def table(scenarios):
    """For the docs."""
    yield "| scenario | system | jobs/s | ratio | server CPU, us per job | WAL, bytes per job | claim p50 / p99, us |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for scenario in scenarios:
        base = base_of(scenario["medians"]) if scenario["compares_rates"] else None
        for system, figures in scenario["medians"].items():
            share = ratio(figures, base)
            rate, cpu, wal, _, claim, _ = (cell.strip() for cell in cells(figures))
            yield (f"| `{scenario['name']}` | {system} | {int(rate or 0):,} | {f'{share:.2f}' if share else ''} "
                   f"| {cpu} | {wal} | {claim} |")


def publish(page, scenarios, machine, command):
    """Puts the table between two marks of a page."""
    with open(page, encoding="utf-8") as file:
        text = file.read()
    before, rest = text.split("<!-- figures -->\n")
    _, after = rest.split("<!-- end of figures -->\n")
    said = f"`{command}` on {machine['cores']} cores ({machine['cpu']}), PostgreSQL {machine['postgresql'].split()[0]}, " \
           f"pgjobs {machine['pgjobs']}:"
    lines = ["<!-- figures -->", said, "", *table(scenarios), "<!-- end of figures -->", ""]
    with open(page, "w", encoding="utf-8") as file:
        file.write(before + "\n".join(lines) + after)


# --- targets --------------------------------------------------------------------------------------


class Results:
    """Figures by scenario and system; a KeyError where something was not measured."""

    def __init__(self, medians):
        self.medians = medians

    def at(self, scenario, system, *path):
        value = self.medians[scenario][system]
        for key in path:
            value = value[key]
        return value

    def against(self, scenario, other, *path, ours=("pgjobs", "pgjobs-combined")):
        """The best of ours divided by another."""
        path = path or ("rate",)
        best = max(self.at(scenario, system, *path) for system in ours if system in self.medians[scenario])
        return best / self.at(scenario, other, *path)

    def saving(self, scenario, *path):
        return self.at(scenario, "textbook", *path) / self.at(scenario, "pgjobs", *path)


# name, value, the limit, the aim, is more better?
TARGETS = [
    ("life-100: rate, textbook = 1", lambda r: r.against("life-100", "textbook"), 2, 3, True),
    ("life-100: rate, PgQ = 1", lambda r: r.against("life-100", "pgq"), None, 1, True),
    ("life-100-async: rate, textbook = 1", lambda r: r.against("life-100-async", "textbook"), 2, 3, True),
    ("life-one: rate, textbook = 1", lambda r: r.against("life-one", "textbook"), 1.8, 2.4, True),
    ("life-one-async: rate, textbook = 1", lambda r: r.against("life-one-async", "textbook"), 2, 3, True),
    ("enqueue-one: rate, bare INSERT = 1", lambda r: r.against("enqueue-one", "bare"), 0.9, 1, True),
    ("enqueue-one-async: rate, bare INSERT = 1", lambda r: r.against("enqueue-one-async", "bare"), 0.9, 1, True),
    ("enqueue-100: rate, textbook = 1", lambda r: r.against("enqueue-100", "textbook"), 1, 1.3, True),
    ("enqueue-100-async: rate, textbook = 1", lambda r: r.against("enqueue-100-async", "textbook"), 1, 1.3, True),
    ("enqueue-1000: rate, textbook = 1", lambda r: r.against("enqueue-1000", "textbook"), 1, 1.3, True),
    ("enqueue-1000-async: rate, textbook = 1", lambda r: r.against("enqueue-1000-async", "textbook"), 1, 1.3, True),
    ("life-100: CPU per job, textbook / pgjobs", lambda r: r.saving("life-100", "cpu_us_per_job"), 2, None, True),
    ("life-100: CPU per job, us", lambda r: r.at("life-100", "pgjobs", "cpu_us_per_job"), None, 12, False),
    ("life-100: WAL per job, textbook / pgjobs", lambda r: r.saving("life-100", "wal_bytes_per_job"), 1.8, None, True),
    ("life-100: WAL per job, bytes", lambda r: r.at("life-100", "pgjobs", "wal_bytes_per_job"), None, 400, False),
    *((f"{name}: {what}, last 10 s / first 10 s", lambda r, name=name, path=path: r.at(name, "pgjobs", path),
       limit, aim, more)
      for name in ("pinned", "pinned-failing", "pinned-priorities")
      for what, path, limit, aim, more in (("rate", "rate_last_first", 0.98, 1, True),
                                           ("claim p99", "p99_last_first", None, 1.5, False))),
    ("backlog: claim p99 at 1,000,000 / at 1,000", lambda r: r.at("backlog", "pgjobs", "p99_ratio", "1000000"),
     1.5, 1.1, False),
    ("notify: rate, wakeup / off", lambda r: r.against("notify", "pgjobs", ours=("pgjobs-wakeup",)), 0.95, 1, True),
    ("latency: enqueued to claimed p50, ms", lambda r: r.at("latency", "pgjobs", "latency", "wake", "p50") / 1000,
     0.5, 0.2, False),
    ("latency: enqueued to claimed p99, ms", lambda r: r.at("latency", "pgjobs", "latency", "wake", "p99") / 1000,
     3, 1, False),
    *((f"topic-100{form}: rate, PgQ = 1",
       lambda r, form=form: r.against(f"topic-100{form}", "pgq", ours=("pgjobs-topic",)), 1.5, None, True)
      for form in ("", "-async")),
    ("topic-100: WAL per message, bytes", lambda r: r.at("topic-100", "pgjobs-topic", "wal_bytes_per_job"), 250, None, False),
    ("topic-100: WAL per message, 100 subscriptions / 1",
     lambda r: r.at("topic-100", "pgjobs-topic-100", "wal_bytes_per_job") / r.at("topic-100", "pgjobs-topic", "wal_bytes_per_job"),
     1.02, 1, False),
    ("topic-one: WAL per message, bytes", lambda r: r.at("topic-one", "pgjobs-topic", "wal_bytes_per_job"), 250, None, False),
    ("latency: published to received p50, ms",
     lambda r: r.at("latency", "pgjobs-topic", "latency", "wake", "p50") / 1000, 0.5, None, False),
    ("latency: published to received p99, ms",
     lambda r: r.at("latency", "pgjobs-topic", "latency", "wake", "p99") / 1000, 3, None, False),
    ("waiters: server CPU, % of a core", lambda r: r.at("waiters", "pgjobs", "cpu_percent"), 0.5, 0.05, False),
]


def judge_targets(medians):
    results, judged = Results(medians), []
    for name, value, limit, aim, more in TARGETS:
        try:
            figure = value(results)
        except (KeyError, ValueError):
            continue  # not measured this time

        def meets(wanted, figure=figure, more=more):
            return wanted is None or (figure >= wanted if more else figure <= wanted)

        judged.append({"target": name, "value": figure, "limit": limit, "aim": aim,
                       "reached": meets(limit if limit is not None else aim), "aim_reached": meets(aim)})
    return judged


def print_targets(judged):
    print()
    for target in judged:
        word = "reached" if target["reached"] else "not reached"
        limit, aim = target["limit"], target["aim"]
        wanted = ", ".join(f"{what} {number}" for what, number in (("limit", limit), ("aim", aim)) if number is not None)
        also = " and the aim" if limit is not None and aim is not None and target["aim_reached"] else ""
        print(f"{target['target']:52s}{target['value']:9.3f}  {word}{also} ({wanted})")


# --- chart ----------------------------------------------------------------------------------------

COLOURS = {
    "textbook": "#8c8c8c", "textbook-notify": "#6b6b6b", "bare": "#c9c9c9", "pgq": "#c07a2c",
    "pgjobs": "#2f6fb0", "pgjobs-combined": "#123f73", "pgjobs-wakeup": "#5b93cc", "pgjobs-events": "#8fb8e0",
    "pgjobs-topic": "#2f6fb0", "pgjobs-topic-100": "#5b93cc",
    "graphile-worker": "#4f9a5b", "pg-boss": "#a04f9a",
}


def escape(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def chart(scenarios):
    """An SVG: for each scenario that compares rates a group of bars, textbook = 1."""
    groups = []
    for scenario in scenarios:
        base = base_of(scenario["medians"]) if scenario["compares_rates"] else None
        bars = [(system.removesuffix("-kept"), ratio(figures, base), figures["rate"])
                for system, figures in scenario["medians"].items()
                if system.removesuffix("-kept") in COLOURS and ratio(figures, base)]
        if len(bars) > 1:
            groups.append((scenario, bars))

    left, width, bar, gap = 150, 860, 15, 34
    most = max((share for _, bars in groups for _, share, _ in bars), default=1)
    scale = (width - left - 130) / max(most, 1)
    parts, y = [], 58
    for scenario, bars in groups:
        parts.append(f'<text x="12" y="{y}" class="h">{escape(scenario["name"])}'
                     f'<tspan dx="10" class="s">{escape(scenario["what"])}</tspan></text>')
        y += 8
        for system, share, rate in bars:
            length = share * scale
            parts.append(f'<text x="{left - 8}" y="{y + 11}" text-anchor="end">{escape(system)}</text>'
                         f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 2}" rx="1" '
                         f'fill="{COLOURS[system]}"/>'
                         f'<text x="{left + length + 6:.1f}" y="{y + 11}">{share:.2f}'
                         f'<tspan dx="8" class="s">{rate:,.0f}/s</tspan></text>')
            y += bar
        y += gap
    height = y - gap + 20
    line = left + scale
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        "<style>text{font:12px system-ui,sans-serif;fill:#222;paint-order:stroke;stroke:#fff;stroke-width:3px}.h{font-weight:600}"
        ".s{font-weight:400;fill:#666}.t{font-size:15px;font-weight:600}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        '<text x="12" y="24" class="t">Jobs per second, textbook queue = 1 (longer is better)</text>',
        f'<path d="M{line:.1f} 40V{height - 12}" stroke="#999" stroke-dasharray="3 3"/>',
        *parts, "</svg>", ""])
