#include "tests/support/etcd.hpp"

#include "tests/support/lab.hpp"

namespace lab {

namespace {

/// A server alone chooses itself as the leader within a second or two; a busy machine takes longer.
constexpr Milliseconds start_limit = 30s;

fs::path etcd_program(std::string const& name) { return deps() / "etcd/usr/bin" / name; }

}  // namespace

std::string Etcd::why_impossible() {
    if (fs::exists(etcd_program("etcd"))) return {};
    return "etcd is missing from " + deps().string() + ": run scripts/setup";
}

Etcd::Etcd(fs::path directory, Place place, EtcdOptions options)
    : directory_(std::move(directory)), place_(std::move(place)), options_(std::move(options)) {
    if (auto const why = why_impossible(); !why.empty()) throw Failure(why);
    fs::create_directories(directory_);
    start();
}

std::string Etcd::endpoint() const {
    return fmt::format("{}://{}:{}", options_.tls_directory.empty() ? "http" : "https",
                       options_.address, options_.port);
}

std::string Etcd::url() const {
    if (options_.tls_directory.empty())
        return fmt::format("etcd://{}:{}", options_.address, options_.port);
    return fmt::format("etcds://{}:{}?tls-dir={}", options_.address, options_.port,
                       options_.tls_directory.string());
}

Argv Etcd::ctl_line(Argv const& arguments) const {
    Argv argv{"env",         "ETCDCTL_API=3", etcd_program("etcdctl"),
              "--endpoints", endpoint(),      "--command-timeout=2s"};
    if (auto const& tls = options_.tls_directory; !tls.empty()) {
        argv.insert(argv.end(), {"--cacert", tls / "ca-cert.pem", "--cert", tls / "client-cert.pem",
                                 "--key", tls / "client-key.pem"});
    }
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    return argv;
}

std::string Etcd::ctl(Argv const& arguments) const { return must_run(ctl_line(arguments), place_); }

void Etcd::start() {
    auto const peer = fmt::format("http://{}:{}", options_.address, options_.port + 1);
    Argv argv{etcd_program("etcd"),
              "--name",
              "lab",
              "--data-dir",
              directory_ / "data",
              "--listen-client-urls",
              endpoint(),
              "--advertise-client-urls",
              endpoint(),
              "--listen-peer-urls",
              peer,
              "--initial-advertise-peer-urls",
              peer,
              "--initial-cluster",
              "lab=" + peer};
    if (auto const& tls = options_.tls_directory; !tls.empty()) {
        argv.insert(argv.end(),
                    {"--cert-file", tls / "server-cert.pem", "--key-file", tls / "server-key.pem",
                     "--client-cert-auth", "--trusted-ca-file", tls / "ca-cert.pem"});
    }
    daemon_.emplace("etcd", argv, place_, directory_);
    wait_until("an etcd that answers", start_limit, [this] {
        if (!daemon_->running()) throw Failure("etcd ended: " + daemon_->err());
        return run(ctl_line({"endpoint", "health"}), place_).exit_status == 0;
    });
}

void Etcd::kill() { daemon_->kill(); }

}  // namespace lab
