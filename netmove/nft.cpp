#include "netmove/nft.hpp"

#include <linux/netlink.h>
#include <nftables/libnftables.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <string_view>

#include "core/fd.hpp"
#include "core/library.hpp"

namespace netmove {

using core::Errc;
using core::fail;
using core::Result;

namespace {

// libnftables, loaded when it is first used: it and what it needs would cost each sidecar 0.5 MiB.
#define NFTABLES_FUNCTIONS(X)    \
    X(nft_ctx_buffer_error)      \
    X(nft_ctx_buffer_output)     \
    X(nft_ctx_free)              \
    X(nft_ctx_get_error_buffer)  \
    X(nft_ctx_get_output_buffer) \
    X(nft_ctx_new)               \
    X(nft_ctx_output_set_flags)  \
    X(nft_ctx_set_dry_run)       \
    X(nft_run_cmd_from_buffer)

#define DECLARE(name) decltype(&::name) name = nullptr;
NFTABLES_FUNCTIONS(DECLARE)
#undef DECLARE

/// A second call does nothing. Fails with refused if it is missing.
Result<> load_nftables() {
    static bool loaded = false;
    if (loaded) return {};
    TRY(auto const library, core::Library::load({"libnftables.so.1"}, "libnftables1"));
#define BIND(name) TRY_VOID(library.bind(name, #name));
    NFTABLES_FUNCTIONS(BIND)
#undef BIND
    loaded = true;
    return {};
}

/// nft's complaint as a part of a sentence: its first line, without "Error: ", which is followed by
/// the command and an arrow.
std::string first_line(std::string_view text) {
    for (std::string_view const head : {"Error: ", "internal:0:0-0: Error: "}) {
        if (auto const at = text.find(head); at != std::string_view::npos) {
            text.remove_prefix(at + head.size());
        }
    }
    return std::string(text.substr(0, text.find('\n')));
}

}  // namespace

void Nft::Free::operator()(nft_ctx* context) const { nft_ctx_free(context); }

Result<Nft> Nft::open() {
    // The library ends the process where it gets no such socket, so that is asked first.
    core::Fd const socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER));
    if (!socket) {
        return core::fail_os(Errc::refused, errno,
                             "this kernel has no nftables (CONFIG_NF_TABLES), which networks need");
    }
    TRY_VOID(load_nftables());
    Nft nft(nft_ctx_new(NFT_CTX_DEFAULT));
    if (!nft.context_ || nft_ctx_buffer_output(nft.context_.get()) != 0 ||
        nft_ctx_buffer_error(nft.context_.get()) != 0) {
        return fail(Errc::netlink, "no memory for nftables");
    }
    return nft;
}

Result<std::string> Nft::run_as(std::string const& commands, unsigned flags) {
    auto* const context = context_.get();
    nft_ctx_output_set_flags(context, flags);
    int const failed = nft_run_cmd_from_buffer(context, commands.c_str());
    std::string const out = nft_ctx_get_output_buffer(context);
    std::string const error = nft_ctx_get_error_buffer(context);
    if (failed == 0) return out;
    auto const words = first_line(error);
    if (words.contains("Operation not permitted")) {
        return core::fail_os(Errc::netlink, EPERM,
                             "no privilege: CAP_NET_ADMIN is needed to look at and change rules of "
                             "nftables");
    }
    return fail(Errc::netlink, "nftables: {}", words.empty() ? "it failed without a word" : words);
}

Result<std::string> Nft::run_for_json(std::string const& commands) {
    return run_as(commands, NFT_CTX_OUTPUT_JSON);
}

Result<std::string> Nft::run_for_rules(std::string const& commands) {
    return run_as(commands, NFT_CTX_OUTPUT_STATELESS | NFT_CTX_OUTPUT_TERSE);
}

Result<> Nft::try_out(std::string const& commands) {
    nft_ctx_set_dry_run(context_.get(), true);
    auto const done = run(commands);
    nft_ctx_set_dry_run(context_.get(), false);
    TRY_VOID(done);
    return {};
}

}  // namespace netmove
