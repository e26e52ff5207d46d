"""The server's wall clock where the nemesis has set it (clocks). The checker compares the server's
times with the clients', whose clock nobody sets; so they are translated into it as they are read."""

import bisect

UNKNOWN = None


class ServerClock:
    def __init__(self, records):
        """records: the nemesis', each time that it had set the clock."""
        records = sorted(records, key=lambda record: record["t"])
        self.times = [record["t"] for record in records]
        self.records = records

    def ahead(self, op):
        """How far the clock was ahead when the operation happened, us; UNKNOWN if it was set just
        then, or stood still."""
        n = bisect.bisect_right(self.times, op.t0)
        now = self.records[n - 1] if n else {"ahead": 0, "stopped": 0}
        set_meanwhile = n < len(self.records) and self.records[n]["since"] <= op.t1
        return UNKNOWN if set_meanwhile or now["stopped"] else now["ahead"]

    def translate(self, op):
        """The server's times in an answer."""
        if not self.records or not op.res or op.f not in ("claim", "extend"):
            return
        ahead = self.ahead(op)
        if op.f == "extend":
            op.res = None if ahead is UNKNOWN else op.res - ahead
            return
        for row in op.res:
            lease = op.args["lease"]
            if ahead is UNKNOWN:  # it lasts as long as one that begins with the call
                row["now"] = op.w0
                row["until"] = None if lease is None else op.w0 + lease
            else:
                row["now"] -= ahead
                row["until"] = None if row["until"] is None else row["until"] - ahead

    def was_set_between(self, start, end):
        """Whether wall time means something else at the end than at the start, monotonic ns."""
        n = bisect.bisect_left(self.times, start)
        return n < len(self.times) and self.records[n]["since"] <= end or \
            n > 0 and bool(self.records[n - 1]["stopped"])
