#include "sidecar/replication/replication_target.hpp"

#include <signal.h>

#include <ctime>

#include "core/log.hpp"
#include "qmp/launch.hpp"
#include "qmp/vm.hpp"
#include "sidecar/guest/destination_line.hpp"
#include "sidecar/guest/orphaned_qemu.hpp"
#include "sidecar/guest/preflight.hpp"
#include "sidecar/host/keys.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/host/test_hooks.hpp"
#include "storage/image.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::fail_errno;
using core::Result;
using core::Task;

namespace {

std::string qmp_socket(Paths const& paths, std::string const& guest) {
    return paths.run(guest) + "/replica.sock";
}

}  // namespace

Task<Result<>> end_left_replica(core::Loop& loop, Paths paths, std::string guest) {
    auto const deadline = Deadline::after(limits::qmp_timeout);
    auto left = co_await qmp::Client::connect(loop, qmp_socket(paths, guest), deadline);
    if (!left && left.error().code == Errc::closed) co_return Result<>{};  // there is none
    if (!left) co_return std::unexpected(std::move(left.error()));
    core::log::warning("guest={} ending the QEMU of an interrupted round", guest);
    co_return co_await end_left_qemu(loop, **left, deadline);
}

ReplicationTarget::ReplicationTarget(core::Loop& loop, Paths paths, std::string guest,
                                     std::string replication_id, Journal const& journal,
                                     ServeOptions options)
    : loop_(loop),
      paths_(std::move(paths)),
      name_(std::move(guest)),
      replication_id_(std::move(replication_id)),
      journal_(journal),
      options_(std::move(options)),
      turn_(loop, 1) {}

ReplicationTarget::~ReplicationTarget() = default;

Task<Result<protocol::Packed>> ReplicationTarget::handle(protocol::FromReplicationSource request) {
    CO_TRY_VOID(co_await turn_.acquire(Deadline::after(limits::fold_timeout)));
    auto answer = co_await std::visit(
        [this](auto& one) { return protocol::packed(on(std::move(one))); }, request);
    turn_.release();
    if (!answer && answer.error().os == ENOSPC) {
        answer.error().what +=
            "; make room there: the existing points stay complete, and the next round continues";
    }
    if (!answer) {
        core::log::warning("guest={} replication={} {}", name_, replication_id_,
                           answer.error().sentence());
    }
    co_return answer;
}

Task<void> ReplicationTarget::end() {
    co_await stop_qemu();
    if (record_ && number_ != 0 && record_->base != 0) {
        for (std::size_t i = 0; i < record_->images.size(); ++i) {
            // Otherwise the next round does.
            (void)storage::remove_points(record_->disk(i), record_->overlays);
        }
    }
    number_ = 0;
    remove_key(key_directory());
}

Result<> ReplicationTarget::check_not_failed_over() const {
    auto const& last = journal_.last();
    bool const by_journal = last.failed_over() && last.migration_id == replication_id_;
    bool const by_record = record_ && record_->replication_id == replication_id_ &&
                           (record_->failed_over_at != 0 || record_->chosen);
    if (!by_journal && !by_record) return {};
    return fail(Errc::refused,
                "{} was failed over to this host: it runs, or has run, here, and must never run on "
                "its old source again",
                name_);
}

Result<> ReplicationTarget::check_same_disks(Description const& now) const {
    auto const& before = record_->description.disks;
    bool same = before.size() == now.disks.size();
    for (std::size_t i = 0; same && i < before.size(); ++i) {
        same = before[i].format == now.disks[i].format &&
               before[i].virtual_bytes == now.disks[i].virtual_bytes &&
               record_->images[i].path == map_path(options_.maps, now.disks[i].path);
    }
    if (same) return {};
    return fail(Errc::refused,
                "the disks of {} have changed, and no longer match its copy on this host: end the "
                "replication with `sidecar replicate {} --stop --forget` and start it again",
                name_, name_);
}

/// A guest of which this host has no copy yet: checked as for a migration.
Task<Result<>> ReplicationTarget::take_in(Description description) {
    CO_TRY_VOID(co_await preflight(loop_, paths_, options_.maps, description, {},
                                   Deadline::after(limits::check_timeout)));
    ReplicaRecord made;
    made.replication_id = replication_id_;
    made.copy_id = replication_id_;
    made.maps = options_.maps;
    for (auto const& disk : description.disks) {
        made.images.push_back({map_path(options_.maps, disk.path)});
    }
    made.description = std::move(description);
    // Before the first image: a sidecar that finds an image without a point can then identify it.
    CO_TRY_VOID(made.write(paths_, name_));
    record_ = std::move(made);
    co_return Result<>{};
}

/// In the order of storage/owned_file.hpp. The images of an interrupted first round are used again
/// if they are still the same files.
Task<Result<>> ReplicationTarget::make_images() {
    std::vector<std::string> created;
    for (std::size_t i = 0; i < record_->images.size(); ++i) {
        auto& image = record_->images[i];
        CO_TRY(bool const there, image.is_there());
        if (there) continue;
        auto const& disk = record_->description.disks[i];
        storage::CreateOptions settings;
        settings.access = disk.access;
        if (disk.format == "qcow2") settings.layout = disk.layout;
        CO_TRY_VOID(storage::remove_owned({image.path}, record_->copy_id));
        CO_TRY(image.identity,
               co_await storage::create_image(
                   loop_, storage::unfinished_path(image.path, record_->copy_id), disk.format,
                   disk.virtual_bytes, settings, Deadline::after(limits::prepare_timeout)));
        created.push_back(image.path);
    }
    if (created.empty()) co_return Result<>{};
    CO_TRY_VOID(record_->write(paths_, name_));
    stop_for_test("publish_images");
    Result<> published;
    for (auto const& path : created) {
        if (published) published = storage::publish(path, record_->copy_id);
    }
    if (published) co_return published;
    for (auto const& path : created) {
        (void)storage::remove_owned({path}, record_->copy_id);  // otherwise the next round does
    }
    co_return published;
}

Task<Result<>> ReplicationTarget::make_overlays() {
    auto const below = record_->overlays.empty() ? 0 : record_->last();
    for (std::size_t i = 0; i < record_->images.size(); ++i) {
        CO_TRY_VOID(co_await storage::create_point(loop_, record_->disk(i), number_, below,
                                                   Deadline::after(limits::prepare_timeout)));
    }
    co_return Result<>{};
}

Task<Result<>> ReplicationTarget::start_qemu() {
    auto overlays = record_->overlays;
    if (record_->base != 0) overlays.push_back(number_);
    CO_TRY(auto const program, map_program(options_.maps, record_->description.argv.front()));
    std::vector<std::string> words{program};
    for (auto const* word :
         {"-machine", "none", "-nodefaults", "-no-user-config", "-display", "none", "-S"}) {
        words.emplace_back(word);
    }
    std::vector<storage::TargetDisk> disks;
    export_names_.clear();
    for (std::size_t i = 0; i < record_->images.size(); ++i) {
        for (auto& node : storage::chain_options(record_->disk(i), overlays, i)) {
            words.insert(words.end(), {"-blockdev", std::move(node)});
        }
        export_names_.push_back(fmt::format("sidecar-{}-{}", replication_id_, i));
        disks.push_back({storage::chain_node(i), export_names_.back()});
    }
    CO_TRY(auto const given, qmp::CommandLine::parse(words));
    CO_TRY(auto line, given.for_launch({qmp::qmp_fd_in_qemu, {}}));
    qmp::LaunchRequest request{std::move(line),
                               {},
                               qmp_socket(paths_, name_),
                               paths_.run(name_) + "/replica.log",
                               "/",
                               false};
    CO_TRY(auto launched, co_await qmp::launch(loop_, std::move(request),
                                               Deadline::after(limits::prepare_timeout)));
    qemu_ = std::move(launched.process);
    client_ = std::move(launched.client);
    target_ = std::make_unique<storage::Target>(loop_, *client_, std::move(disks));
    co_return Result<>{};
}

Task<Result<>> ReplicationTarget::open_endpoints(std::string key) {
    auto const deadline = Deadline::after(limits::prepare_timeout);
    if (!key.empty()) {
        CO_TRY_VOID(write_key(key_directory(), key));
        CO_TRY_VOID(co_await add_key_object(*client_, qemu_.pid(), key_directory(), "server",
                                            replication_id_, deadline));
    }
    CO_TRY(nbd_port_,
           co_await target_->open("", options_.data_ports,
                                  key.empty() ? "" : key_object(replication_id_), deadline));
    co_return Result<>{};
}

Task<void> ReplicationTarget::stop_qemu() {
    target_.reset();
    if (client_) {
        // It runs no guest; a complete round has already ended it itself.
        (void)qemu_.signal(SIGKILL);
        (void)co_await core::wait_exit(loop_, qemu_, Deadline::after(limits::rollback_timeout));
        co_await client_->close();
    }
    client_.reset();
    qemu_ = core::Process();
}

Task<Result<protocol::ReplicateBeginAnswer>> ReplicationTarget::on(protocol::ReplicateBegin begin) {
    CO_TRY(auto description, Description::from_json(begin.description));
    if (description.guest != name_ || description.migration_id != replication_id_) {
        co_return fail(Errc::protocol, "the description is of another guest or replication");
    }
    bool const plain_here = options_.tls.mode == core::TlsConfig::Mode::plaintext;
    if (begin.key.empty() && !plain_here) {
        co_return fail(Errc::protocol, "the round's key is missing");
    }
    CO_TRY_VOID(make_directory(paths_.run(name_)));
    co_await stop_qemu();
    number_ = 0;
    CO_TRY_VOID(co_await end_left_replica(loop_, paths_, name_));
    CO_TRY(record_, ReplicaRecord::read(paths_, name_));
    CO_TRY_VOID(check_not_failed_over());
    if (record_ && record_->failed_over_at != 0)
        record_.reset();  // of a replication before this one
    if (!record_) CO_TRY_VOID(co_await take_in(description));
    CO_TRY_VOID(check_same_disks(description));
    // A failover starts it with the line of the last round.
    CO_TRY_VOID(check_allowed(paths_, options_.maps, description));
    if (record_->handed_over != 0) {  // its source has the guest again
        record_->handed_over = 0;
        CO_TRY_VOID(record_->write(paths_, name_));
    }
    if (record_->base != 0) {
        auto const deadline = Deadline::after(limits::fold_timeout, stop_.get_token());
        CO_TRY_VOID(co_await fold_replica(loop_, paths_, name_, *record_, 1, deadline));
    }
    // Only the writes that the source still knows are needed, if it knows them since a point that
    // this copy has.
    bool const full = record_->replication_id != replication_id_ || record_->base == 0 ||
                      begin.base == 0 || begin.base > record_->last();
    if (stop_.stop_requested()) co_return fail(Errc::cancelled, "the guest is being failed over");
    number_ = record_->last() + 1;
    CO_TRY_VOID(record_->base == 0 ? co_await make_images() : co_await make_overlays());
    CO_TRY_VOID(co_await start_qemu());
    CO_TRY_VOID(co_await open_endpoints(begin.key));
    coming_ = std::move(description);
    co_return protocol::ReplicateBeginAnswer{number_, full, nbd_port_, export_names_};
}

Task<Result<protocol::Nothing>> ReplicationTarget::on(protocol::ReplicateComplete complete) {
    if (number_ == 0 || complete.number != number_) {
        co_return fail(Errc::refused, "no round {} is under way here", complete.number);
    }
    auto const deadline = Deadline::after(limits::prepare_timeout);
    CO_TRY_VOID(co_await target_->seal(deadline));
    CO_TRY_VOID(co_await qmp::quit(*client_, deadline));
    CO_TRY_VOID(
        co_await core::wait_exit(loop_, qemu_, deadline));  // QEMU has flushed and closed them
    co_await stop_qemu();
    for (std::size_t i = 0; i < record_->images.size(); ++i) {
        auto const written = record_->base == 0 ? record_->images[i].path
                                                : storage::point_path(record_->disk(i), number_);
        CO_TRY_VOID(co_await storage::sync_image(loop_, written, deadline));
    }
    stop_for_test("replicate_complete");
    auto next = *record_;
    next.replication_id = replication_id_;
    next.description = coming_;
    next.maps = options_.maps;
    if (next.base == 0) {
        next.base = number_;
    } else {
        next.overlays.push_back(number_);
    }
    next.points.push_back({number_,
                           static_cast<std::int64_t>(std::time(nullptr)) -
                               static_cast<std::int64_t>(complete.age_ms / 1000),
                           complete.bytes, Consistency::from(complete.consistency, complete.why)});
    if (next.points.size() > 2) next.points.erase(next.points.begin());
    CO_TRY_VOID(next.write(paths_, name_));  // from this moment the point exists
    record_ = std::move(next);
    number_ = 0;
    core::log::info("guest={} replication={} point={} complete", name_, replication_id_,
                    record_->last());
    co_return protocol::Nothing{};
}

/// The source cannot start the guest any more: a failover needs no confirmation by the operator.
Task<Result<protocol::Nothing>> ReplicationTarget::on(protocol::ReplicateHandOver hand_over) {
    CO_TRY(record_, ReplicaRecord::read(paths_, name_));
    CO_TRY_VOID(check_not_failed_over());
    auto const number = hand_over.number;
    if (!record_ || record_->replication_id != replication_id_ || number != record_->last()) {
        co_return fail(Errc::refused, "point {} of replication {} is not the last one here", number,
                       replication_id_);
    }
    record_->handed_over = record_->last();
    CO_TRY_VOID(record_->write(paths_, name_));
    core::log::info("guest={} replication={} handed over with point {}", name_, replication_id_,
                    number);
    co_return protocol::Nothing{};
}

Task<Result<protocol::Nothing>> ReplicationTarget::on(protocol::ReplicateForget) {
    co_await stop_qemu();
    number_ = 0;
    CO_TRY_VOID(co_await end_left_replica(loop_, paths_, name_));
    CO_TRY(record_, ReplicaRecord::read(paths_, name_));
    CO_TRY_VOID(check_not_failed_over());
    if (!record_) co_return protocol::Nothing{};
    if (record_->failed_over_at == 0) {
        for (std::size_t i = 0; i < record_->images.size(); ++i) {
            CO_TRY_VOID(storage::remove_points(record_->disk(i), {}));
            CO_TRY(bool const other, storage::remove_owned(record_->images[i], record_->copy_id));
            if (!other) continue;
            core::log::warning("guest={} leaving {}: this replication did not create it", name_,
                               record_->images[i].path);
        }
        CO_TRY_VOID(ReplicaRecord::remove(paths_, name_));
    }
    record_.reset();
    co_return protocol::Nothing{};
}

}  // namespace sidecar
