// DnsUpdate: the addresses of the guest's name in the DNS, changed when the guest has moved. For a
// guest that has other addresses at its new place: it is found by new connections. Used by the
// source of a migration and by a failover. It is not a Mover: it has one half, nothing of it may
// happen in the pause, and a rollback finds nothing to undo.
//
//   check()   before anything is touched: may the key change the name at the zone's primary?
//   run()     after RESUME: one update, if the name still has the addresses that check() read
//
// Invariant: a failure of run() is a warning. It fails no move and delays none.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/json.hpp"
#include "netmove/dns/primary.hpp"
#include "sidecar/host/settings.hpp"

namespace sidecar {

class DnsUpdate {
public:
    /// `options` must outlive it. Without a name in them, every call does nothing. `guest` is for
    /// the log.
    DnsUpdate(core::Loop& loop, DnsOptions const& options, std::string guest);

    [[nodiscard]] bool wanted() const { return !options_.name.empty(); }
    /// Reads the key, finds the zone and its primary, reads the name's records, and asks whether
    /// the key may replace them. Fails with refused, or timed_out, io or protocol if the server
    /// could not be asked.
    core::Task<core::Result<>> check(core::Deadline deadline);
    /// Makes the change, once: a second call does nothing. If check() was not called or has failed,
    /// it is called now, and the addresses that it reads are the ones that are replaced.
    core::Task<void> run(core::Deadline deadline);

    /// For `migrate --check`: what will be changed, and for how long resolvers may keep the old
    /// addresses. Empty before check().
    [[nodiscard]] std::vector<std::string> lines() const;
    /// One sentence about the change that was made; empty: none was.
    [[nodiscard]] std::string done_line() const;
    /// One line if it was not made, with the commands for nsupdate(1); empty: all is well.
    [[nodiscard]] std::string warning() const;
    /// {name, zone, server, outcome, before, after, found?, error?}; null before run().
    [[nodiscard]] core::Json report() const;

    /// What check() has read, for a later sidecar of the guest; null: nothing.
    [[nodiscard]] core::Json record() const;
    /// After a restart, before run(): a record of an earlier sidecar. Anything else is ignored.
    void restore(core::Json const& record);

private:
    enum class Outcome : std::uint8_t {
        none,
        changed,
        unchanged,  ///< The name had the new addresses already.
        changed_by_others,
        failed
    };
    static std::string_view name(Outcome outcome);
    core::Task<core::Result<>> find(core::Deadline deadline);
    core::Task<core::Result<>> change(core::Deadline deadline);
    core::Result<netmove::dns::Records> wanted_records() const;
    [[nodiscard]] std::string by_hand() const;
    [[nodiscard]] std::string cached_for() const;

    core::Loop& loop_;
    DnsOptions const& options_;
    std::string guest_;
    bool begun_ = false;  ///< run() was called.
    std::optional<netmove::dns::Primary> primary_;
    std::optional<netmove::dns::Records> before_;
    netmove::dns::Records after_;
    netmove::dns::Records found_;  ///< With changed_by_others.
    Outcome outcome_ = Outcome::none;
    std::optional<core::Error> failure_;
};

}  // namespace sidecar
