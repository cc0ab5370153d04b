// Nft: nftables through its own library. Used by networks for their rules. What one run() is given
// is one transaction of the kernel: all of it, or none.
//
// An Nft belongs to the network namespace the thread was in when it was opened, and is short-lived:
// the library remembers interface names.
#pragma once

#include <memory>
#include <string>

#include "core/result.hpp"

struct nft_ctx;

namespace netmove {

class Nft {
public:
    /// Fails with refused when this kernel has no nftables.
    static core::Result<Nft> open();

    /// Runs nft(8) commands; what they print. Fails with netlink, in nft's own words.
    core::Result<std::string> run(std::string const& commands) { return run_as(commands, 0); }
    /// The same, printed as libnftables-json(5).
    core::Result<std::string> run_for_json(std::string const& commands);
    /// The same, without what changes by itself: counters and the elements of sets.
    core::Result<std::string> run_for_rules(std::string const& commands);
    /// Asks the kernel whether it would take the commands, and changes nothing.
    core::Result<> try_out(std::string const& commands);

private:
    struct Free {
        void operator()(nft_ctx* context) const;
    };
    explicit Nft(nft_ctx* context) : context_(context) {}
    core::Result<std::string> run_as(std::string const& commands, unsigned flags);
    std::unique_ptr<nft_ctx, Free> context_;
};

}  // namespace netmove
