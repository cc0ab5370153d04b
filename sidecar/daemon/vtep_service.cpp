#include "sidecar/daemon/vtep_service.hpp"

#include <optional>
#include <vector>

#include "core/log.hpp"
#include "netmove/vxlan_mover.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

/// Interfaces of one guest: as many as its description may have.
constexpr std::size_t moves_max = 64;

class VtepService : public Handler {
public:
    explicit VtepService(netmove::Netlink netlink) : netlink_(std::move(netlink)) {}

    Task<Result<Json>> handle(Connection&, std::string verb, Json arguments) override {
        if (verb != "prepare" && verb != "repoint_fdb") {
            co_return fail(Errc::protocol, "`{}` is nothing a VTEP can be asked", verb);
        }
        CO_TRY_VOID(take(arguments["moves"]));
        if (verb == "repoint_fdb") co_return turn(arguments["to"].text_or(""));
        std::string devices;
        for (auto const& mover : movers_) {
            CO_TRY_VOID(co_await mover->prepare(Deadline::after(limits::check_timeout)));
            if (mover->device().empty()) continue;
            devices += (devices.empty() ? "" : ", ") + mover->device();
        }
        co_return Json::object({{"devices", devices}});
    }

private:
    /// Those of the last question are kept, with what they have found.
    Result<> take(Json const& moves) {
        auto const text = moves.dump();
        if (text == moves_) return {};
        if (!moves.is_array() || moves.size() > moves_max) {
            return fail(Errc::protocol, "the moves are missing, or more than {}", moves_max);
        }
        std::vector<std::unique_ptr<netmove::VxlanVtep>> made;
        for (auto const& one : moves.elements()) {
            TRY(auto const move, netmove::VxlanMove::from_json(one));
            made.push_back(std::make_unique<netmove::VxlanVtep>(netlink_, move));
        }
        movers_ = std::move(made);
        moves_ = text;
        return {};
    }

    /// All, also when one fails: the first failure. Does not suspend.
    Result<Json> turn(std::string const& to) {
        if (to != "source" && to != "destination") {
            return fail(Errc::protocol, "a guest is at no `{}`", to);
        }
        Result<> first;
        bool changed = false;
        for (auto const& mover : movers_) {
            auto turned = to == "destination" ? mover->fire() : mover->rollback();
            changed = changed || mover->changed();
            for (auto const& mac : mover->moves()) {
                core::log::info("vtep device={} mac={} is at the {}", mover->device(), mac, to);
            }
            if (!turned && first) first = std::move(turned);
        }
        if (!first) return std::unexpected(first.error());
        return Json::object({{"changed", changed}});
    }

    netmove::Netlink netlink_;
    std::string moves_;
    std::vector<std::unique_ptr<netmove::VxlanVtep>> movers_;
};

}  // namespace

Task<Result<>> serve_vtep(core::Loop& loop, std::unique_ptr<Messages> source,
                          std::stop_token token) {
    CO_TRY(auto netlink, netmove::Netlink::open());
    VtepService service(std::move(netlink));
    Connection connection(loop, std::move(source), service, true);
    co_await connection.run(token);
    co_return Result<>{};
}

}  // namespace sidecar
