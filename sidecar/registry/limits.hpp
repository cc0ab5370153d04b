// Every wait and size of the registry, with its unit and the reason for it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace sidecar::registry::limits {

using std::chrono::milliseconds;
using std::chrono::seconds;

/// One answer of a registry, in bytes. An entry is below 1 KiB; a watch may report several.
constexpr std::size_t answer_bytes_max = 256 * 1024;
/// Texts and addresses of an entry.
constexpr std::size_t text_bytes_max = 255;
constexpr std::size_t addresses_max = 64;
/// The highest token: exact in every JSON parser (2^53), and no peer can bring it to an overflow.
constexpr std::uint64_t token_max = std::uint64_t{1} << 53;
constexpr std::size_t endpoints_max = 16;
/// One request to one server: an idle etcd answers in milliseconds, one that is choosing a leader
/// in one or two seconds.
constexpr milliseconds request_timeout{2000};
/// Reading the registry before a guest starts or moves: two servers may be silent before a third
/// answers.
constexpr seconds read_timeout{6};
/// After a move the source tries to write the registry for so long, before it reports the outcome.
/// The destination's sidecar continues.
constexpr seconds settle_patience{6};
/// The pause before a failed write is tried again; doubles up to the maximum.
constexpr milliseconds retry_pause_min{250};
constexpr seconds retry_pause_max{15};
/// A watch asks the server again after so long: a server that is unreachable is noticed then.
constexpr seconds watch_turn{15};
/// How often a watch reads a file: a shared file system does not report changes of other hosts.
constexpr milliseconds file_watch_interval{500};
/// The lock of the files is held for some milliseconds.
constexpr milliseconds lock_pause{5};
/// A host counts as gone so long after its last sign of life. etcd grants whole seconds, at
/// least 2.
constexpr seconds host_lease{15};
/// Three signs of life may be lost before the lease expires.
constexpr seconds host_lease_interval{4};
/// Ending a lease when `serve` ends; otherwise it expires.
constexpr seconds lease_end_timeout{1};

}  // namespace sidecar::registry::limits
