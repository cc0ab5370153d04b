#include "core/result.hpp"

#include <cstring>

namespace core {

Error&& Error::while_doing(std::string step) && {
    during.push_back(std::move(step));
    return std::move(*this);
}

Error& Error::while_doing(std::string step) & {
    during.push_back(std::move(step));
    return *this;
}

std::string Error::sentence() const {
    if (during.empty()) return what;
    std::string steps;
    for (auto const& step : during) {
        if (!steps.empty()) steps += "; ";
        steps += "while " + step;
    }
    return fmt::format("{} ({})", what, steps);
}

std::unexpected<Error> fail_os(Errc code, int os_errno, std::string what) {
    return std::unexpected(
        Error{code, os_errno, fmt::format("{}: {}", what, std::strerror(os_errno)), {}});
}

std::string_view name(Errc code) {
    switch (code) {
        case Errc::io:
            return "io";
        case Errc::closed:
            return "closed";
        case Errc::timed_out:
            return "timed_out";
        case Errc::cancelled:
            return "cancelled";
        case Errc::protocol:
            return "protocol";
        case Errc::qemu_refused:
            return "qemu_refused";
        case Errc::nbd:
            return "nbd";
        case Errc::netlink:
            return "netlink";
        case Errc::refused:
            return "refused";
        case Errc::invalid:
            return "invalid";
    }
    return "?";
}

}  // namespace core
