#include "tests/process/dns_lab.hpp"

#include <signal.h>
#include <sys/stat.h>

#include <algorithm>

#include "core/base64.hpp"

namespace dns_lab {

namespace {

constexpr int many_addresses = 60;

/// `mover` may change addresses, `narrow` only IPv4 addresses, and `stranger` nothing.
constexpr char const* configuration = R"(
options {{
    directory "{directory}";
    listen-on port 53 {{ 127.0.0.1; }};
    listen-on-v6 port 53 {{ ::1; }};
    pid-file none;
    session-keyfile none;
    recursion no;
    dnssec-validation no;
    notify no;
}};
controls {{ }};
key "mover" {{ algorithm hmac-sha256; secret "{mover}"; }};
key "long" {{ algorithm hmac-sha512; secret "{mover}"; }};
key "narrow" {{ algorithm hmac-sha256; secret "{mover}"; }};
key "stranger" {{ algorithm hmac-sha256; secret "{mover}"; }};
zone "example.org" {{
    type primary;
    file "example.org.zone";
    update-policy {{
        grant mover zonesub A AAAA;
        grant long zonesub A AAAA;
        grant narrow zonesub A;
    }};
}};
)";

constexpr char const* zone = R"($ORIGIN example.org.
$TTL 3600
@    IN SOA localhost. admin.example.org. {serial} 3600 600 86400 60
@    IN NS  ns
ns   IN A   127.0.0.1
web1 77 IN A    192.0.2.1
web1 77 IN AAAA 2001:db8::1
www  IN CNAME web1
four 30 IN A    192.0.2.4
)";

}  // namespace

std::string secret(char first) {
    std::vector<std::uint8_t> bytes(32, 's');
    bytes[0] = static_cast<std::uint8_t>(first);
    return core::to_base64(bytes);
}

NameServer::NameServer(std::chrono::seconds clock_offset) {
    auto const program = lab::deps() / "bin" / "named";
    if (!lab::fs::exists(program)) throw lab::Failure("run scripts/setup: there is no name server");
    write_files();
    lab::Place place;
    if (clock_offset != 0s) {
        place.environment = {"LD_PRELOAD=" + lab::program("clock-fault.so").string(),
                             fmt::format("CLOCK_FAULT_S={}", clock_offset.count())};
    }
    daemon_.emplace("named",
                    lab::Argv{program, "-g", "-n", "1", "-c", directory_.path("named.conf")}, place,
                    directory_.text());
    lab::wait_until("the name server to answer", 20s, [&] {
        if (!daemon_->running()) throw lab::Failure("named ended: " + log());
        return contains(log(), "running\n") && lab::accepts("", "::1", 53);
    });
}

NameServer::~NameServer() {
    // It may have been stopped, and is never wanted any more.
    if (daemon_) daemon_->kill();
}

void NameServer::write_files() {
    lab::write_file(
        directory_.path("named.conf"),
        fmt::format(fmt::runtime(configuration), fmt::arg("directory", directory_.text()),
                    fmt::arg("mover", secret('m'))));
    auto text = fmt::format(fmt::runtime(zone), fmt::arg("serial", first_serial));
    for (int i = 1; i <= many_addresses; ++i) text += fmt::format("many IN AAAA 2001:db8::{}\n", i);
    lab::write_file(directory_.path("example.org.zone"), text);
}

void NameServer::pause() {
    daemon_->signal(SIGSTOP);
    lab::wait_until("the name server to stop", 20s, [&] {
        auto const tasks = fmt::format("/proc/{}/task", daemon_->pid());
        return std::ranges::all_of(lab::fs::directory_iterator(tasks), [](auto const& task) {
            return contains(lab::read_file(task.path() / "stat"), ") T ");
        });
    });
}

std::string NameServer::key_file(std::string const& name, char first_of_secret,
                                 std::string const& algorithm) {
    auto const file = directory_.path("key-" + lab::unique_suffix());
    lab::write_file(file, fmt::format("key \"{}\" {{\n\talgorithm {};\n\tsecret \"{}\";\n}};\n",
                                      name, algorithm, secret(first_of_secret)));
    REQUIRE(::chmod(file.c_str(), 0600) == 0);
    return file;
}

std::string NameServer::records(std::string const& name, std::string const& type) const {
    auto const line = fmt::format(
        "dig @127.0.0.1 +tries=1 +time=5 +noall +answer {} {} | awk '{{ print $2, $5 }}' | sort",
        name, type);
    return sh(line);
}

int NameServer::serial() const {
    return std::stoi(sh("dig @127.0.0.1 +tries=1 +time=5 +short example.org SOA | cut -d' ' -f3"));
}

void NameServer::change(std::string const& commands) {
    auto const file = directory_.path("commands");
    lab::write_file(file, "server 127.0.0.1\n" + commands + "\nsend\n");
    sh(fmt::format("nsupdate -k {} {}", key_file("mover"), file));
}

}  // namespace dns_lab
