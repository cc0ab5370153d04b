#include "netmove/ipv6_setting.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>

#include "core/fd.hpp"
#include "core/result.hpp"

namespace netmove {

namespace {

std::string path_of(std::string const& interface, std::string const& setting,
                    char const* family = "ipv6") {
    return fmt::format("/proc/sys/net/{}/conf/{}/{}", family, interface, setting);
}

std::optional<std::string> read_setting(std::string const& path) {
    core::Fd const fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    std::array<char, 32> buffer;
    auto const got = fd ? ::read(fd.get(), buffer.data(), buffer.size()) : -1;
    if (got <= 0) return {};
    std::string text(buffer.data(), static_cast<std::size_t>(got));
    while (text.ends_with('\n')) text.pop_back();
    return text;
}

}  // namespace

std::optional<std::string> read_ipv6_setting(std::string const& interface,
                                             std::string const& setting) {
    return read_setting(path_of(interface, setting));
}

std::optional<std::string> read_ipv4_setting(std::string const& interface,
                                             std::string const& setting) {
    return read_setting(path_of(interface, setting, "ipv4"));
}

bool write_ipv6_setting(std::string const& interface, std::string const& setting,
                        std::string const& value) {
    core::Fd const fd(::open(path_of(interface, setting).c_str(), O_WRONLY | O_CLOEXEC));
    return fd && ::write(fd.get(), value.data(), value.size()) > 0;
}

}  // namespace netmove
