// The background processes: one launcher per server, one worker per database that needs one.
#pragma once

namespace pgjobs::process {

// Registers the launcher; while preloading only.
void register_launcher();

} // namespace pgjobs::process
