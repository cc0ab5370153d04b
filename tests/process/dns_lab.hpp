// A name server of the tests: BIND as a process of its own, on port 53 of the loopback of a network
// namespace that only the test is in, with files in a directory that only the test has. Used by
// the tests of names in the DNS. Invariant: the server, its namespace and its files end with the
// object.
#pragma once

#include "tests/process/netmove_lab.hpp"
#include "tests/process/storage_lab.hpp"
#include "tests/support/lab.hpp"

namespace dns_lab {

using namespace std::chrono_literals;
using netmove_lab::contains;
using netmove_lab::sh;

inline constexpr char const* guest_name = "web1.example.org";
/// The SOA record's serial that the zone starts with.
inline constexpr int first_serial = 100;

/// A secret of 32 bytes that differs by its first.
std::string secret(char first);

class NameServer {
public:
    /// Starts it, with the test's thread in its namespace. `clock_offset`: how far its clock is
    /// ahead.
    explicit NameServer(std::chrono::seconds clock_offset = 0s);
    ~NameServer();
    NameServer(NameServer const&) = delete;
    NameServer& operator=(NameServer const&) = delete;

    /// A key file of mode 0600: the key `name` of the server's configuration, or one that differs.
    std::string key_file(std::string const& name, char first_of_secret = 'm',
                         std::string const& algorithm = "hmac-sha256");
    /// The records of a type as dig(1) prints them: "77 192.0.2.1\n", sorted.
    [[nodiscard]] std::string records(std::string const& name, std::string const& type) const;
    [[nodiscard]] int serial() const;
    /// Another change of the zone, with nsupdate(1).
    void change(std::string const& commands);
    [[nodiscard]] std::string path(std::string const& name) const { return directory_.path(name); }
    lab::Daemon& daemon() { return *daemon_; }
    /// Stops the server's process; returns when each of its threads has stopped.
    void pause();
    [[nodiscard]] std::string log() const { return daemon_->err(); }

private:
    void write_files();

    netmove_lab::Home home_;
    netmove_lab::Space space_;
    storage_lab::Directory directory_;
    std::optional<lab::Daemon> daemon_;
};

}  // namespace dns_lab
