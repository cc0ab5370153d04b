#include "tests/support/swtpm.hpp"

#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>

namespace lab {

namespace {

constexpr auto swtpm_ready_limit = 20s;
constexpr std::size_t tpm_header_bytes = 10;  // tag, length, code
constexpr std::uint32_t owner_hierarchy = 0x40000001;
constexpr std::uint32_t secret_index = 0x01500001;

std::string be16(std::size_t value) {
    return {static_cast<char>(value >> 8U & 0xffU), static_cast<char>(value & 0xffU)};
}
std::string be32(std::uint32_t value) { return be16(value >> 16U) + be16(value & 0xffffU); }

/// A command whose handles are authorized by the empty password. (TPM 2.0 Library, part 3)
std::string tpm_command(std::uint32_t code, std::string const& handles,
                        std::string const& parameters) {
    auto const password = be32(9) + be32(0x40000009) + be16(0) + std::string(1, '\0') + be16(0);
    auto const body = handles + password + parameters;
    return be16(0x8002) + be32(static_cast<std::uint32_t>(tpm_header_bytes + body.size())) +
           be32(code) + body;
}

/// A TPM that was switched on, with no guest.
class BareTpm {
public:
    explicit BareTpm(fs::path const& state)
        : socket_path_(state / "bare.sock"),
          daemon_("swtpm-bare-" + unique_suffix(),
                  {"swtpm", "socket", "--tpm2", "--tpmstate", "dir=" + state.string(), "--flags",
                   "not-need-init,startup-clear", "--server",
                   "type=unixio,path=" + socket_path_.string(), "--terminate"},
                  {}, state.parent_path()) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::strncpy(address.sun_path, socket_path_.c_str(), sizeof address.sun_path - 1);
        wait_until("swtpm to listen", swtpm_ready_limit, [&] {
            if (!daemon_.running()) throw Failure("swtpm has ended: " + daemon_.err());
            socket_.reset(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
            auto const* const generic = reinterpret_cast<sockaddr const*>(&address);
            return connect(socket_.get(), generic, sizeof address) == 0;
        });
    }
    ~BareTpm() {
        socket_.reset();
        (void)daemon_.wait(end_limit);
        std::error_code ignored;
        fs::remove(socket_path_, ignored);
    }
    BareTpm(BareTpm const&) = delete;

    /// What follows the header of the answer.
    std::string run(std::string const& sent) {
        constexpr int tries = 5;
        for (int count = 1;; ++count) {
            auto const answer = exchange(sent);
            auto const code = answer.substr(6, 4);
            if (code == be32(0)) return answer.substr(tpm_header_bytes);
            // TPM_RC_RETRY: it was testing itself.
            if (code != be32(0x922) || count == tries) throw Failure("the TPM refuses a command");
        }
    }

private:
    std::string exchange(std::string const& sent) {
        std::string answer(4096, '\0');
        bool const written = send(socket_.get(), sent.data(), sent.size(), MSG_NOSIGNAL) ==
                             static_cast<ssize_t>(sent.size());
        auto const got = written ? recv(socket_.get(), answer.data(), answer.size(), 0) : -1;
        answer.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
        if (answer.size() < tpm_header_bytes)
            throw Failure("swtpm does not answer: " + daemon_.err());
        return answer;
    }

    fs::path socket_path_;
    Daemon daemon_;
    core::Fd socket_;
};

}  // namespace

Daemon start_swtpm(std::string const& name, fs::path const& state, fs::path const& socket,
                   Place const& place, std::string const& version, Argv const& more) {
    fs::create_directories(state);
    Argv argv{"swtpm",      "socket",
              "--tpmstate", "dir=" + state.string() + ",mode=0600",
              "--ctrl",     "type=unixio,path=" + socket.string(),
              "--terminate"};
    if (version == "2.0") argv.emplace_back("--tpm2");
    argv.insert(argv.end(), more.begin(), more.end());
    Daemon daemon(name, std::move(argv), place, socket.parent_path());
    // Not by a connection: swtpm has one client.
    wait_until("swtpm to listen", swtpm_ready_limit, [&] {
        if (!daemon.running()) throw Failure("swtpm has ended: " + daemon.err());
        return listens(daemon.pid(), socket);
    });
    return daemon;
}

Argv tpm_options(fs::path const& socket, std::string const& device) {
    return {"-chardev", "socket,id=chrtpm,path=" + socket.string(),
            "-tpmdev",  "emulator,id=tpm0,chardev=chrtpm",
            "-device",  device + ",tpmdev=tpm0"};
}

void write_tpm_secret(fs::path const& state, std::string const& text) {
    fs::create_directories(state);
    BareTpm tpm(state);
    // Written and read by its owner or by its own empty password; the dictionary attack logic does
    // not apply.
    constexpr std::uint32_t attributes = 0x02060006;
    constexpr std::uint16_t sha256 = 0x000b;
    auto const area =
        be32(secret_index) + be16(sha256) + be32(attributes) + be16(0) + be16(text.size());
    tpm.run(tpm_command(0x12a, be32(owner_hierarchy), be16(0) + be16(area.size()) + area));
    tpm.run(tpm_command(0x137, be32(owner_hierarchy) + be32(secret_index),
                        be16(text.size()) + text + be16(0)));
}

std::string read_tpm_secret(fs::path const& state, std::size_t bytes) {
    BareTpm tpm(state);
    auto const answer = tpm.run(
        tpm_command(0x14e, be32(owner_hierarchy) + be32(secret_index), be16(bytes) + be16(0)));
    constexpr std::size_t before = 4 + 2;  // the length of the parameters, and of the text
    if (answer.size() < before + bytes) throw Failure("the TPM answers too little");
    return answer.substr(before, bytes);
}

}  // namespace lab
