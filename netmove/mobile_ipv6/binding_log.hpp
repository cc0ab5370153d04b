// BindingLog: the home agent's bindings on disk, a line of JSON each. Used by HomeAgent. A change
// is appended; now and then the whole file is written anew. What has changed while the disk was
// busy is written together, so that updates by the thousand cost few syncs.
//
// Invariant: a crash at any moment leaves a file with every change that was reported as durable. A
// last line that was cut off is no line.
#pragma once

#include <functional>
#include <stop_token>
#include <string>
#include <vector>

#include "core/fd.hpp"
#include "core/json.hpp"
#include "core/loop.hpp"
#include "core/sync.hpp"
#include "core/task.hpp"

namespace netmove::mobile_ipv6 {

/// After a write that failed.
constexpr std::chrono::seconds binding_log_retry{5};
/// A longer file was not written by a home agent: 65,536 bindings with 8 changes each, of 300
/// bytes.
constexpr std::size_t binding_log_bytes_max = 256U << 20U;
/// The file is written anew after so many changes, or after twice as many as it had lines.
constexpr std::size_t binding_log_changes_min = 1'000;

class BindingLog {
public:
    /// All that is to be remembered: {"bindings": [record, ...]}.
    using Snapshot = std::function<core::Json()>;
    using WhenDurable = std::function<void()>;

    BindingLog(core::Loop& loop, std::string path, Snapshot snapshot)
        : loop_(loop), path_(std::move(path)), snapshot_(std::move(snapshot)), changed_(loop) {}

    /// The records of the file, oldest first; of two for an address the later one counts. Empty:
    /// there is no file yet. Fails with io or invalid.
    static core::Result<std::vector<core::Json>> read(std::string const& path);

    /// The snapshot has changed, and this record of it. `when_durable` is called when a crash
    /// cannot undo the change any more; or after a write that failed, which is logged.
    void append(core::Json const& record, WhenDurable when_durable);
    /// Writes until stopped, and then what is left. One at a time.
    core::Task<void> run(std::stop_token stop);

private:
    core::Task<core::Result<>> write_pending(std::string lines, std::size_t count);
    core::Task<core::Result<>> write_anew();
    core::Task<core::Result<>> write_text(int file, std::string const& text);
    core::Task<bool> write_once();

    core::Loop& loop_;
    std::string path_;
    Snapshot snapshot_;
    core::Event changed_;
    std::string lines_;  ///< Not written yet.
    std::vector<WhenDurable> waiting_;
    core::Fd file_;  ///< None: the file is to be written anew.
    std::size_t changes_ = 0;  ///< Since it was.
    std::size_t changes_max_ = binding_log_changes_min;
};

}  // namespace netmove::mobile_ipv6
