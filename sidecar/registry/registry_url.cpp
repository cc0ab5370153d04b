#include "sidecar/registry/registry_url.hpp"

#include <arpa/inet.h>

#include <algorithm>

#include "core/stream.hpp"
#include "sidecar/registry/etcd_registry.hpp"
#include "sidecar/registry/file_registry.hpp"
#include "sidecar/registry/limits.hpp"

namespace sidecar::registry {

using core::Errc;
using core::fail;
using core::Result;

namespace {

constexpr std::string_view file_scheme = "file:";
constexpr std::string_view etcd_scheme = "etcd://";
constexpr std::string_view etcds_scheme = "etcds://";
constexpr std::string_view tls_key = "?tls-dir=";
constexpr char const* etcd_port = "2379";  ///< IANA: etcd-client
constexpr char const* default_prefix = "/sidecar";

/// Daemons and their children have other working directories.
Result<std::string> absolute(std::string_view path) {
    if (!path.starts_with('/')) return fail(Errc::invalid, "`{}` is no absolute path", path);
    return std::string(path);
}

/// They become part of an http URL.
Result<> check_endpoint(std::string const& host, std::string const& port) {
    constexpr std::string_view of_names =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    constexpr std::string_view digits = "0123456789";
    constexpr std::size_t port_digits_max = 5;
    in6_addr binary{};
    bool const is_host = (!host.empty() && host.find_first_not_of(of_names) == host.npos) ||
                         inet_pton(AF_INET6, host.c_str(), &binary) == 1;
    bool const is_port = !port.empty() && port.size() <= port_digits_max &&
                         port.find_first_not_of(digits) == port.npos;
    if (is_host && is_port) return {};
    return fail(Errc::invalid, "`{}` with port `{}` is no server", host, port);
}

Result<RegistryUrl> parse_etcd(std::string_view rest, bool tls) {
    RegistryUrl made{.kind = RegistryUrl::Kind::etcd, .prefix = default_prefix};
    if (auto const question = rest.find('?'); question != std::string_view::npos) {
        auto const query = rest.substr(question);
        if (!tls || !query.starts_with(tls_key) || query == tls_key) {
            return fail(Errc::invalid, "`{}` is not ?tls-dir=DIR of etcds://", query);
        }
        TRY(made.tls_directory, absolute(query.substr(tls_key.size())));
        rest = rest.substr(0, question);
    }
    if (tls && made.tls_directory.empty()) {
        return fail(Errc::invalid,
                    "etcds:// needs ?tls-dir=DIR, a directory with ca-cert.pem, client-cert.pem "
                    "and client-key.pem");
    }
    if (auto const slash = rest.find('/'); slash != std::string_view::npos) {
        made.prefix = rest.substr(slash);
        while (made.prefix.ends_with('/')) made.prefix.pop_back();
        rest = rest.substr(0, slash);
    }
    while (!rest.empty()) {
        auto const comma = std::min(rest.find(','), rest.size());
        TRY(auto endpoint, core::split_host_port(std::string(rest.substr(0, comma)), etcd_port));
        TRY_VOID(check_endpoint(endpoint.first, endpoint.second));
        made.endpoints.push_back(std::move(endpoint));
        rest = rest.substr(std::min(comma + 1, rest.size()));
    }
    if (made.endpoints.empty() || made.endpoints.size() > limits::endpoints_max) {
        return fail(Errc::invalid, "a registry in etcd has 1 to {} servers", limits::endpoints_max);
    }
    return made;
}

}  // namespace

Result<RegistryUrl> RegistryUrl::parse(std::string const& text) {
    std::string_view const all(text);
    if (all.starts_with(file_scheme) && all.size() > file_scheme.size()) {
        TRY(auto directory, absolute(all.substr(file_scheme.size())));
        return RegistryUrl{.kind = Kind::file, .directory = std::move(directory)};
    }
    if (all.starts_with(etcd_scheme)) return parse_etcd(all.substr(etcd_scheme.size()), false);
    if (all.starts_with(etcds_scheme)) return parse_etcd(all.substr(etcds_scheme.size()), true);
    return fail(Errc::invalid,
                "`{}` is no registry: write file:DIR, etcd://HOST[:PORT][,...][/PREFIX] or "
                "etcds://HOST[:PORT][,...][/PREFIX]?tls-dir=DIR",
                text);
}

Result<std::unique_ptr<Registry>> open_registry(core::Loop& loop, std::string const& url) {
    TRY(auto parsed, RegistryUrl::parse(url));
    if (parsed.kind == RegistryUrl::Kind::file)
        return std::make_unique<FileRegistry>(loop, parsed.directory);
    return std::make_unique<EtcdRegistry>(loop, std::move(parsed), url);
}

bool is_passing(core::Error const& error) {
    return error.code == Errc::io || error.code == Errc::closed || error.code == Errc::timed_out;
}

}  // namespace sidecar::registry
