// Primary: the server that a zone is changed at (RFC 2136), and the addresses of one name there.
// Used by sidecar/handover/dns_update.cpp. Invariant: the name is changed only if it still has the
// addresses that were read before, and both families change together.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "netmove/dns/client.hpp"

namespace netmove::dns {

/// How often an update is sent at most. After each unanswered one the records are read again.
constexpr std::size_t updates_max = 3;
constexpr char const* dns_port = "53";

class Primary {
public:
    /// Finds the zone of `name` (absolute) and its primary server. `server` is HOST[:PORT]; empty:
    /// the one that the zone's SOA record names, asked of the resolvers in `resolv_conf`. Their
    /// answers are not signed, but a wrong server cannot sign its own.
    /// Fails with refused (a sentence for the operator: the key is wrong, for example), timed_out,
    /// io, protocol or cancelled.
    static core::Task<core::Result<Primary>> find(core::Loop& loop, std::string name,
                                                  std::string server, TsigKey key,
                                                  std::string resolv_conf, core::Deadline deadline);

    /// The A and AAAA records of the name. Fails as find(); refused if the name is an alias.
    core::Task<core::Result<Records>> read(core::Deadline deadline) const;
    /// Asks the server whether the key may replace the records `before`; changes nothing. Fails
    /// with refused if not.
    core::Task<core::Result<>> try_key(Records before, core::Deadline deadline) const;

    enum class Outcome : std::uint8_t {
        changed,  ///< The name has the addresses `after`.
        changed_by_others,  ///< It had neither `before` nor `after`, and was left alone.
    };
    struct Updated {
        Outcome outcome = Outcome::changed;
        Records found;  ///< With changed_by_others: what the name has.
    };
    /// Replaces `before` by `after` in one message. If its answer is lost, the records are read
    /// again, because the message itself would be refused the second time. Fails as find(); then
    /// it is not known which of the two the name has.
    core::Task<core::Result<Updated>> update(Records before, Records after,
                                             core::Deadline deadline) const;

    [[nodiscard]] std::string const& zone() const { return zone_; }
    [[nodiscard]] std::string const& name() const { return name_; }
    [[nodiscard]] std::string const& server() const { return client_.name(); }
    /// The commands for nsupdate(1) that do the same by hand, each with a line break;
    /// `only_before`: on the same conditions.
    [[nodiscard]] std::string commands(Records const& before, Records const& after,
                                       bool only_before) const;

private:
    Primary(Client client, std::string host, std::string port, std::string name, std::string zone,
            TsigKey key);
    core::Task<core::Result<>> find_zone(core::Deadline deadline);
    /// Of the name. Fails with refused if the server refuses, or if the name is an alias.
    core::Task<core::Result<Answer>> ask(RecordType type, core::Deadline deadline) const;
    core::Task<core::Result<Records>> read_one(RecordType type, core::Deadline deadline) const;
    [[nodiscard]] std::string key_refusal(Answer const& answer) const;
    enum class Purpose : std::uint8_t { question, update };
    [[nodiscard]] core::Error refusal(Answer const& answer, Purpose purpose) const;

    Client client_;
    std::string host_;
    std::string port_;
    std::string name_;
    std::string zone_;
    TsigKey key_;
};

/// The addresses of the host's resolvers, from a file of resolv.conf(5); without any, 127.0.0.1.
std::vector<std::string> resolvers_in(std::string_view resolv_conf);
/// As in glibc, MAXNS.
constexpr std::size_t resolvers_max = 3;

}  // namespace netmove::dns
