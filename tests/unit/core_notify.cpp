// core/notify.hpp: systemd receives the message on the socket that it named.
#include "core/notify.hpp"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <cstring>
#include <string>

#include "core/fd.hpp"

namespace core_notify_cases {

TEST_CASE("notify: READY=1 goes to the socket in NOTIFY_SOCKET, and only there") {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::string const name = "@sidecar-notify-" + std::to_string(getpid());  // an abstract socket
    std::memcpy(address.sun_path + 1, name.data() + 1, name.size() - 1);
    core::Fd const socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    REQUIRE(bind(socket.get(), reinterpret_cast<sockaddr*>(&address),
                 static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size())) == 0);
    char text[64];
    core::notify_ready();
    CHECK(recv(socket.get(), text, sizeof text, 0) < 0);
    REQUIRE(setenv("NOTIFY_SOCKET", name.c_str(), 1) == 0);
    core::notify_ready();
    unsetenv("NOTIFY_SOCKET");
    auto const got = recv(socket.get(), text, sizeof text, 0);
    REQUIRE(got > 0);
    CHECK(std::string(text, static_cast<std::size_t>(got)) == "READY=1");
}

}  // namespace core_notify_cases
