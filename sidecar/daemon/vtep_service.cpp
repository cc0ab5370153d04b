#include "sidecar/daemon/vtep_service.hpp"

#include <optional>
#include <vector>

#include "core/log.hpp"
#include "netmove/vxlan_mover.hpp"
#include "sidecar/channel/protocol_vtep.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

class VtepService : public Handler {
public:
    explicit VtepService(netmove::Netlink netlink) : netlink_(std::move(netlink)) {}

    Task<Result<protocol::Packed>> handle(Connection&, protocol::Call call) override {
        CO_TRY(auto request, protocol::parse<protocol::FromVtepSource>(std::move(call)));
        co_return co_await std::visit(
            [this](auto& one) { return protocol::packed(on(std::move(one))); }, request);
    }

private:
    Task<Result<protocol::VtepPrepareAnswer>> on(protocol::VtepPrepare prepare) {
        take(prepare.moves);
        std::string devices;
        for (auto const& mover : movers_) {
            CO_TRY_VOID(co_await mover->prepare(Deadline::after(limits::check_timeout)));
            if (mover->device().empty()) continue;
            devices += (devices.empty() ? "" : ", ") + mover->device();
        }
        co_return protocol::VtepPrepareAnswer{devices};
    }

    /// The movers of the last request are kept, with what they have found.
    void take(std::vector<netmove::VxlanMove> const& moves) {
        auto list = Json::array();
        for (auto const& move : moves) list.add(move.to_json());
        auto const text = list.dump();
        if (text == moves_) return;
        movers_.clear();
        for (auto const& move : moves) {
            movers_.push_back(std::make_unique<netmove::VxlanVtep>(netlink_, move));
        }
        moves_ = text;
    }

    /// Calls all movers, even if one fails; returns the first failure. Does not suspend.
    Task<Result<protocol::VtepRepointFdbAnswer>> on(protocol::VtepRepointFdb repoint) {
        take(repoint.moves);
        Result<> first;
        bool changed = false;
        for (auto const& mover : movers_) {
            auto turned =
                repoint.to == protocol::Owner::destination ? mover->fire() : mover->rollback();
            changed = changed || mover->changed();
            for (auto const& mac : mover->moves()) {
                core::log::info("vtep device={} mac={} is at the {}", mover->device(), mac,
                                protocol::name(repoint.to));
            }
            if (!turned && first) first = std::move(turned);
        }
        if (!first) co_return std::unexpected(first.error());
        co_return protocol::VtepRepointFdbAnswer{changed};
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
    Connection connection(loop, std::move(source), service, protocol::Role::vtep_source);
    co_await connection.run(token);
    co_return Result<>{};
}

}  // namespace sidecar
