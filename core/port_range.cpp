#include "core/port_range.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <charconv>

#include "core/stream.hpp"

namespace core {

namespace {

Result<std::uint16_t> port_of(std::string_view text) {
    std::uint16_t port = 0;
    auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
    if (error == std::errc() && end == text.data() + text.size()) return port;
    return fail(Errc::invalid, "`{}` is not a port", text);
}

}  // namespace

Result<PortRange> PortRange::parse(std::string_view text) {
    PortRange made;
    auto const dash = text.find('-');
    TRY(made.first, port_of(text.substr(0, dash)));
    made.last = made.first;
    if (dash != std::string_view::npos) {
        TRY(made.last, port_of(text.substr(dash + 1)));
    }
    if (made.last < made.first || (made.first == 0 && made.last != 0)) {
        return fail(Errc::invalid, "`{}` is not a range of ports: it needs FIRST-LAST", text);
    }
    return made;
}

std::string PortRange::text() const {
    return first == last ? fmt::format("{}", first) : fmt::format("{}-{}", first, last);
}

Result<Fd> listen_tcp(std::string const& host, PortRange ports) {
    for (unsigned port = ports.first; port <= ports.last; ++port) {
        auto socket = listen_tcp(host, std::to_string(port));
        if (socket || socket.error().os != EADDRINUSE) return socket;
    }
    if (ports.first == ports.last) {
        return fail(Errc::refused, "TCP port {} is in use", ports.text());
    }
    return fail(Errc::refused, "all TCP ports of {} are in use", ports.text());
}

}  // namespace core
