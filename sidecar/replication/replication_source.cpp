#include "sidecar/replication/replication_source.hpp"

#include <unistd.h>

#include <filesystem>

#include "core/log.hpp"
#include "qmp/vm.hpp"
#include "sidecar/guest/guest_drift.hpp"
#include "sidecar/host/keys.hpp"
#include "sidecar/host/process_user.hpp"
#include "sidecar/registry/ownership.hpp"
#include "storage/block_device.hpp"

namespace sidecar {

using core::Clock;
using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

std::string replication_record_path(Paths const& paths, std::string const& guest) {
    return paths.state(guest) + "/replication.json";
}

std::vector<storage::WarmDisk> warm_disks(std::vector<MovedDisk> const& disks) {
    std::vector<storage::WarmDisk> list;
    for (auto const& disk : disks) {
        list.push_back({disk.name, {disk.node, disk.qdev, disk.virtual_bytes}});
    }
    return list;
}

/// The consistency of a point of a guest that does not run; nothing for one that runs.
std::optional<Consistency> without_freeze(std::string const& run_state) {
    if (is_off(run_state)) return Consistency{Consistency::Kind::off, ""};
    if (run_state == "paused") return Consistency{Consistency::Kind::crash, "the guest is paused"};
    return {};
}

std::int64_t ms_since(Clock::time_point at) {
    return std::chrono::duration_cast<core::milliseconds>(Clock::now() - at).count();
}

}  // namespace

ReplicationSource::ReplicationSource(Guest& guest, ReplicationSettings settings, bool go_on)
    : guest_(guest),
      loop_(guest.loop),
      settings_(std::move(settings)),
      go_on_(go_on),
      migration_id_(new_migration_id()),
      begun_(guest.loop),
      ended_(guest.loop) {}

ReplicationSource::~ReplicationSource() = default;

PeerChannel::Config ReplicationSource::peer_config() const {
    return {settings_.destination, settings_.tls, guest_.name, migration_id_,
            protocol::Role::replication_source};
}

void ReplicationSource::make_copy() {
    storage::WarmOptions options;
    options.directory = guest_.paths.run(guest_.name);
    options.fleecing_directory = guest_.paths.state(guest_.name);
    options.migration_id = migration_id_;
    options.bandwidth_bytes_per_second = settings_.bandwidth;
    options.quiescence = freeze_.get();
    copy_ = std::make_unique<storage::DiskReplicator>(loop_, *guest_.client,
                                                      warm_disks(description_.disks), options);
    base_ = 0;
}

void ReplicationSource::find_agent() {
    auto socket = settings_.guest_agent;
    if (settings_.freeze && socket.empty()) socket = guest_.command_line.guest_agent_socket();
    if (!settings_.freeze) socket.clear();
    if (!socket.empty()) socket = absolute(socket, guest_.working_directory);
    freeze_ = std::make_unique<GuestFreeze>(
        guest_, socket,
        settings_.freeze ? "its QEMU has no guest agent channel" : "--no-freeze was given");
}

std::string ReplicationSource::freezing() const {
    if (!freeze_) return "";
    return freeze_->socket().empty()
               ? "crash-consistent: " + freeze_->why_none()
               : "filesystem-consistent, by the guest agent on " + freeze_->socket();
}

/// A recovery point is put right under the device, where the filter is.
Result<> ReplicationSource::check_no_filters() const {
    for (auto const& disk : description_.disks) {
        if (disk.top_node == disk.node) continue;
        return fail(Errc::refused,
                    "disk {} has a filter (throttle, copy-on-read), and cannot be replicated: set "
                    "its limits by block_set_io_throttle instead",
                    disk.name);
    }
    return {};
}

Task<Result<>> ReplicationSource::begin() {
    CO_TRY(description_,
           co_await describe(guest_, migration_id_, {}, RunStatePolicy::running_or_off,
                             Deadline::after(limits::check_timeout)));
    CO_TRY_VOID(check_nothing_left_behind(description_));
    CO_TRY(auto const user, user_of(guest_.process.pid()));
    if (is_other_user(user)) {
        co_return fail(Errc::refused,
                       "QEMU runs as user {}, and a guest is replicated only if QEMU runs as the "
                       "user of sidecar: it opens an image of ours in each round",
                       user.uid);
    }
    if (description_.tpm) {
        co_return fail(Errc::refused,
                       "the guest has a TPM, whose state is in no recovery point: it cannot be "
                       "replicated");
    }
    CO_TRY_VOID(check_no_filters());
    for (auto const& disk : description_.disks) {
        if (!storage::is_block_device(disk.path)) continue;
        co_return fail(Errc::refused,
                       "disk {} is on the block device {}: only files can be replicated", disk.name,
                       disk.path);
    }
    description_.owner = registry::local_entry(loop_, guest_.paths, guest_.name);
    find_agent();
    if (settings_.hand_over) CO_TRY_VOID(co_await look_at_guest());
    if (description_.disks.empty()) {
        co_return fail(Errc::refused, "{} has no disk that could be replicated", guest_.name);
    }
    Json disks = Json::array();
    for (auto const& disk : description_.disks) disks.add(disk.to_json());
    // Before anything is created in QEMU: a sidecar that finds it there can then identify it.
    auto const record = Json::object({{"settings", settings_.to_json()}, {"disks", disks}});
    CO_TRY_VOID(write_durably(replication_record_path(guest_.paths, guest_.name),
                              record.dump_pretty() + "\n"));
    make_copy();
    co_return co_await copy_->begin(Deadline::after(limits::prepare_timeout));
}

Task<void> ReplicationSource::run() {
    auto const token = stop_.get_token();
    auto result = co_await begin();
    for (bool first = true; result && !token.stop_requested(); first = false) {
        auto const next = Clock::now() + std::chrono::seconds(settings_.every_s);
        auto done = co_await round();
        if (settings_.once) {
            result = std::move(done);
            break;
        }
        if (!done && !token.stop_requested()) {
            ++failures_;
            last_error_ = done.error().sentence();
            core::log::warning("guest={} replication={} {}", guest_.name, migration_id_,
                               last_error_);
            // If the very first round is refused, the operator must change something.
            if (first && !begun_.is_set() && !go_on_) {
                result = std::move(done);
                break;
            }
        }
        if (done) {
            failures_ = 0;
            last_error_.clear();
        }
        doing_ = "waiting";
        co_await wait_for_next(next, token);
    }
    doing_ = "ended";
    if (!result) failure_ = std::move(result.error());
    if (!begun_.is_set() && !failure_) failure_ = fail(Errc::cancelled, "cancelled").error();
    begun_.set();
    ended_.set();
}

/// A guest that could not be thawed is thawed before the next round, not by it.
Task<void> ReplicationSource::wait_for_next(Clock::time_point next, std::stop_token token) {
    while (Clock::now() < next && !token.stop_requested()) {
        bool const owes = freeze_->owes_thaw();
        auto const until = owes ? std::min(next, Clock::now() + limits::agent_thaw_interval) : next;
        (void)co_await core::sleep_for(loop_, until - Clock::now(), token);
        if (owes) co_await freeze_->thaw_again();
    }
}

/// After the monitor's connection was lost while QEMU lives: the old bitmaps still exist, but what
/// happened meanwhile is not known.
Task<Result<>> ReplicationSource::renew_client() {
    CO_TRY_VOID(co_await drop());
    if (!guest_.client->open()) {
        CO_TRY_VOID(co_await guest_.reconnect(Deadline::after(limits::qmp_timeout)));
    }
    make_copy();
    co_return co_await copy_->begin(Deadline::after(limits::prepare_timeout));
}

/// Checks whether the guest can be replicated in its current state, and what its point will be.
Task<Result<>> ReplicationSource::look_at_guest() {
    auto const deadline = Deadline::after(limits::qmp_timeout);
    // First, so that a RESUME from here on is noticed.
    resumes_ = guest_.client->subscribe({"RESUME"});
    CO_TRY(auto const status, co_await qmp::query_status(*guest_.client, deadline));
    if (!status.running && !is_stopped(status.status)) {
        co_return fail(Errc::refused,
                       "{} cannot be replicated as it is (QEMU says {}): continue it first",
                       guest_.name, status.status);
    }
    auto const excuse = without_freeze(status.status);
    freeze_->excuse(excuse);
    if (settings_.hand_over && (!excuse || excuse->kind != Consistency::Kind::off)) {
        co_return fail(
            Errc::refused,
            "{} is not off (QEMU says {}), and the contents of its memory would be lost: "
            "move it with `sidecar migrate`, or shut it down first",
            guest_.name, status.status);
    }
    co_return co_await check_same_parts(*guest_.client, description_, deadline);
}

/// The consistency of the point just taken.
Consistency ReplicationSource::consistency() {
    while (resumes_ && resumes_->take()) resumed_ = true;
    auto const last = freeze_->last();
    if (last.kind == Consistency::Kind::off && resumed_)
        return {Consistency::Kind::crash, "the guest was started meanwhile"};
    return last;
}

Task<Result<>> ReplicationSource::round() {
    doing_ = "connecting";
    if (!copy_ || !guest_.client->open()) CO_TRY_VOID(co_await renew_client());
    resumed_ = false;
    CO_TRY_VOID(co_await look_at_guest());
    guest_.take_in_addresses();
    description_.interfaces.clear();
    for (auto const& nic : guest_.nics) description_.interfaces.push_back(nic->interface);
    core::LinkedStop lost(stop_.get_token());
    PeerChannel peer(loop_, peer_config(), [&lost](bool up) {
        if (!up) lost.request_stop();
    });
    CO_TRY_VOID(co_await peer.connect(Deadline::after(limits::connect_timeout, lost.token())));
    core::TaskGroup scope(loop_);
    std::stop_source enough;
    scope.spawn(peer.keep(enough.get_token()));
    auto done = co_await copy_round(peer, lost.token());
    enough.request_stop();
    co_await scope.join();
    remove_key(key_directory());
    if (!done && lost.token().stop_requested() && !stop_.stop_requested()) {
        done.error().what += "; the connection to " + settings_.destination + " was lost";
    }
    co_return done;
}

Task<Result<>> ReplicationSource::copy_round(PeerChannel& peer, std::stop_token token) {
    auto const key = encrypted() ? core::random_hex(32) : std::string();
    if (!key.empty()) CO_TRY_VOID(write_key(key_directory(), key));
    CO_TRY(auto const reply,
           co_await peer.request(protocol::ReplicateBegin{description_.to_json(), base_, key},
                                 Deadline::after(limits::fold_timeout, token)));
    begun_.set();
    doing_ = "copying";
    auto const number = reply.number;
    storage::Destination const destination{peer.host(), std::to_string(reply.nbd_port),
                                           encrypted() ? key_user : "",
                                           encrypted() ? key_file(key_directory()) : ""};
    bool const full = base_ == 0 || reply.full;
    CO_TRY(auto const made,
           co_await copy_->round(destination, reply.exports, full, Deadline::never(token)));
    auto const kind = consistency();
    doing_ = "completing";
    protocol::ReplicateComplete const complete{number,
                                               static_cast<std::uint64_t>(ms_since(made.taken_at)),
                                               made.copied_bytes, kind.kind, kind.why};
    CO_TRY_VOID(
        co_await peer.request(complete, Deadline::after(limits::prepare_timeout * 2, token)));
    last_ = LastPoint{number, made.taken_at, made.copied_bytes, made.took, kind};
    core::log::info("guest={} replication={} point={} full={} copied_bytes={} ms={} {}",
                    guest_.name, migration_id_, number, full, made.copied_bytes, made.took.count(),
                    kind.text());
    base_ = number;
    auto accepted = co_await copy_->accept(Deadline::after(limits::qmp_timeout));
    // It is then not known which bitmaps exist: the next round begins with new ones, and is full.
    if (!accepted) (void)co_await drop();
    co_return accepted;
}

Task<Result<>> ReplicationSource::drop() {
    if (freeze_) co_await freeze_->end();
    if (!copy_) co_return Result<>{};
    auto dropped = co_await copy_->drop(Deadline::after(limits::rollback_timeout));
    if (dropped) copy_.reset();
    co_return dropped;
}

Task<Result<>> ReplicationSource::forget_copy() { return ask_once(protocol::ReplicateForget{}); }

Json ReplicationSource::status() const {
    auto now = Json::object({{"destination", settings_.destination},
                             {"every_s", settings_.every_s},
                             {"doing", doing_},
                             {"failed_rounds", static_cast<std::int64_t>(failures_)}});
    if (doing_ == "copying" && copy_) now.set("copied_bytes", copy_->copied_bytes());
    if (!last_error_.empty()) now.set("last_error", last_error_);
    if (freeze_) now.set("points_are", freezing());
    if (freeze_ && freeze_->owes_thaw()) now.set("may_be_frozen", true);
    if (last_) now.set("last_point", last_point());
    return now;
}

Json ReplicationSource::last_point() const {
    if (!last_) return {};
    return Json::object({{"number", static_cast<std::int64_t>(last_->number)},
                         {"age_s", ms_since(last_->taken_at) / 1000},
                         {"copied_bytes", last_->copied_bytes},
                         {"took_ms", static_cast<std::int64_t>(last_->took.count())},
                         {"consistency", protocol::name(last_->consistency.kind)},
                         {"why", last_->consistency.why}});
}

Task<Result<std::optional<ReplicationSettings>>> ReplicationSource::take_over(Guest& guest) {
    auto const path = replication_record_path(guest.paths, guest.name);
    if (access(path.c_str(), F_OK) != 0) co_return std::optional<ReplicationSettings>();
    CO_TRY(auto const text, read_file(path, limits::manifest_bytes_max));
    CO_TRY(auto const record, Json::parse(text));
    CO_TRY(auto const settings, ReplicationSettings::from_json(record["settings"]));
    std::vector<MovedDisk> disks;
    for (auto const& one : record["disks"].elements()) {
        CO_TRY(auto disk, MovedDisk::from_json(one));
        disks.push_back(std::move(disk));
    }
    CO_TRY_VOID(co_await storage::clear_warm_copy(guest.loop, *guest.client, warm_disks(disks),
                                                  guest.paths.run(guest.name),
                                                  Deadline::after(limits::rollback_timeout)));
    co_return std::optional<ReplicationSettings>(settings);
}

void ReplicationSource::forget_record(Paths const& paths, std::string const& guest) {
    std::error_code ignored;  // if it remains, a later `attach` begins it again and reports that
    std::filesystem::remove(replication_record_path(paths, guest), ignored);
}

}  // namespace sidecar
