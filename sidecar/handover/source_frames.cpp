#include <poll.h>
#include <sys/epoll.h>

#include "core/log.hpp"
#include "netmove/routes_mover.hpp"
#include "qmp/vm.hpp"
#include "sidecar/handover/frames.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

/// The id of QEMU's object that records what it reads from a NIC's tap.
std::string filter_id(std::size_t nic) { return fmt::format("sidecar-frames-{}", nic); }

/// The receive queue of a virtio-net, the first of each pair (virtio 1.2, 5.1.2).
constexpr unsigned receive_queue = 0;

bool is_from(netmove::CaughtFrame const& frame, netmove::MacAddress const& mac) {
    constexpr std::size_t source_at = netmove::virtio_header_size + 6;
    return std::equal(mac.bytes.begin(), mac.bytes.end(), frame.begin() + source_at);
}

}  // namespace

Task<Result<SourceFrames::Recording>> SourceFrames::begin_recording(std::size_t nic,
                                                                    Deadline deadline) {
    auto const& interface = guest_.nics[nic]->interface;
    auto const path = fmt::format("{}/frames-{}.pcap", guest_.paths.run(guest_.name), nic);
    CO_TRY_VOID(injector(nic));  // now, because begin() has no time to open it
    CO_TRY(auto read, netmove::ReadRecorder::make(path));
    auto const added = co_await qmp::object_add(*guest_.client,
                                                Json::object({{"qom-type", "filter-dump"},
                                                              {"id", filter_id(nic)},
                                                              {"netdev", interface.netdev},
                                                              {"queue", "tx"},
                                                              {"file", path}}),
                                                deadline);
    CO_TRY_VOID(read.opened());
    CO_TRY_VOID(added);
    auto device = co_await virtio_device(interface.netdev, deadline);
    co_return Recording{nic, std::move(read), std::move(device)};
}

Task<std::string> SourceFrames::virtio_device(std::string netdev, Deadline deadline) {
    auto const devices = co_await qmp::query_virtio(*guest_.client, "virtio-net", deadline);
    if (!devices) co_return "";
    for (auto const& path : *devices) {
        auto const parent = path.substr(0, path.rfind('/'));
        auto const its = co_await qmp::qom_get(*guest_.client, parent, "netdev", deadline);
        if (its && its->text_or("") == netdev) co_return path;
    }
    co_return "";
}

void SourceFrames::record_sent() {
    if (begun_ || !sent_.empty()) return;
    for (std::size_t nic = 0; nic < guest_.nics.size(); ++nic) {
        auto const& interface = guest_.nics[nic]->interface;
        auto recorder = netmove::FrameRecorder::open(*guest_.netlink, interface.tap);
        if (!recorder) {
            note_unrecorded(nic, recorder.error());
            continue;
        }
        auto const made = sent_.emplace(nic, std::move(*recorder)).first;
        recorders_.spawn(keep_recording(made->second));
    }
}

Task<void> SourceFrames::record_read(Deadline deadline) {
    if (begun_ || !recordings_.empty()) co_return;
    for (std::size_t nic = 0; nic < guest_.nics.size(); ++nic) {
        if (!sent_.contains(nic)) continue;
        auto recording = co_await begin_recording(nic, deadline);
        // A guest that dirties no memory needs no downtime: QEMU stops it whatever the limit is.
        if (begun_ || !sent_.contains(nic)) co_return;
        if (!recording) {
            note_unrecorded(nic, recording.error());
            continue;
        }
        auto const made = recordings_.emplace(nic, std::move(*recording)).first;
        recorders_.spawn(keep_recording(made->second.read));
    }
}

void SourceFrames::note_unrecorded(std::size_t nic, core::Error const& why) const {
    core::log::info("guest={} up to two frames for {} may be lost at STOP: {}", guest_.name,
                    guest_.nics[nic]->interface.mac.text(), why.sentence());
}

template <class Recorder>
Task<void> SourceFrames::keep_recording(Recorder& recorder) {
    auto const deadline = Deadline::never(recorders_stop_.get_token());
    for (;;) {
        if (!co_await guest_.loop.poll(recorder.descriptor(), POLLIN, deadline)) co_return;
        auto const taken = recorder.take_in();
        if (!taken) {
            core::log::warning("guest={} {}", guest_.name, taken.error().sentence());
            co_return;
        }
    }
}

Task<void> SourceFrames::end_recording(Deadline deadline) {
    recorders_stop_.request_stop();
    co_await recorders_.join();
    recorders_stop_ = std::stop_source();
    recordings_.clear();
    sent_.clear();
    for (std::size_t nic = 0; nic < guest_.nics.size(); ++nic) {
        (void)co_await qmp::object_del(*guest_.client, filter_id(nic), deadline);
    }
}

/// What QEMU has read of one tap and does not deliver, oldest first; if the guest does not stay,
/// also the frame that QEMU keeps.
std::vector<netmove::CaughtFrame> SourceFrames::undelivered(Recording& recording,
                                                            bool guest_stays) {
    (void)recording.read.take_in();
    auto const& sent = sent_.at(recording.nic).frames();
    auto read = guest_stays ? recording.read.thrown_away() : recording.read.read_last();
    if (recording.held) read.insert(read.begin(), *recording.held);
    auto frames = netmove::matching(read, sent);
    // QEMU keeps the frame that it read last.
    nics_[recording.nic].qemu_has_one = !guest_stays && !read.empty() && !frames.empty() &&
                                        netmove::same_frame(read.back(), frames.back());
    if (!recording.held_one || recording.held) return frames;
    if (!guest_stays && !recording.after_held)
        recording.after_held = recording.read.first_at_stop();
    auto before = recording.after_held ? netmove::sent_before(*recording.after_held, sent)
                                       : std::optional<netmove::CaughtFrame>();
    if (before) frames.insert(frames.begin(), std::move(*before));
    return frames;
}

/// Puts the frames that QEMU has read since it considers the guest stopped before those in the
/// rings. If the guest stays, only the frames that QEMU will not deliver: the guest may
/// already run again.
void SourceFrames::recover(bool guest_stays) {
    if (std::exchange(recovered_, true)) return;
    for (auto& [index, recording] : recordings_) {
        auto frames = undelivered(recording, guest_stays);
        auto& nic = nics_[index];
        nic.recovered = frames.size();
        for (auto& frame : frames) nic.bytes += frame.size();
        nic.frames.insert(nic.frames.begin(), std::make_move_iterator(frames.begin()),
                          std::make_move_iterator(frames.end()));
    }
}

// Kept open: the kernel needs 15 ms to close a packet socket (synchronize_net), too long while the
// guest is stopped.
Result<netmove::Injector const*> SourceFrames::injector(std::size_t nic) {
    auto known = injectors_.find(nic);
    if (known == injectors_.end()) {
        TRY(auto made, netmove::Injector::open(*guest_.netlink, guest_.nics[nic]->tap.name()));
        known = injectors_.emplace(nic, std::move(made)).first;
    }
    return &known->second;
}

/// Runs at once and in parallel with the pause's other work, because QEMU may resume the guest by
/// itself. (After two commands, one after the other, QEMU's main loop has already read the frame
/// that it keeps.)
Task<void> SourceFrames::look_for_held(Recording& recording) {
    auto const waits = co_await qmp::virtio_queue_waits(
        *guest_.client, recording.device, receive_queue, Deadline::after(limits::queue_answer));
    (void)recording.read.take_in();
    if (!waits) core::log::debug("guest={} {}", guest_.name, waits.error().sentence());
    if (!waits || !*waits) co_return;
    recording.held_one = true;
    recording.held = recording.read.before_last();
    recording.after_held = recording.read.first_at_stop();
}

// QEMU reads one more frame from each tap: this gives it a frame that is not needed. Any other
// frame that it reads instead was sent before, and is recorded.
void SourceFrames::begin() {
    begun_ = true;
    for (auto& [index, recording] : recordings_) {
        (void)recording.read.note_stop();
        if (auto const ring = injector(index)) (void)(*ring)->put(netmove::Gate::own_frame());
        (void)sent_.at(index).take_in();
        if (!recording.device.empty()) recorders_.spawn(look_for_held(recording));
    }
    recorders_stop_.request_stop();
    nics_.assign(guest_.nics.size(), {});
    for (std::size_t index = 0; index < nics_.size(); ++index) {
        auto const link = guest_.netlink->link(guest_.nics[index]->tap.name());
        if (link) nics_[index].dropped_before = link->dropped;
    }
}

/// Takes the frames that wait in the rings. Returns how many there were.
Result<std::size_t> SourceFrames::take() {
    std::size_t taken = 0;
    for (std::size_t index = 0; index < nics_.size(); ++index) {
        if (following_ && left_to_anchor_.contains(index)) continue;
        auto& nic = nics_[index];
        TRY(auto caught,
            netmove::catch_frames(guest_.nics[index]->tap, netmove::caught_bytes_max - nic.bytes));
        taken += caught.frames.size() + caught.dropped;
        for (auto& frame : caught.frames) {
            if (netmove::Gate::is_own(frame)) continue;
            // The guest's own frames, now sent from elsewhere: the guest would see them as a
            // duplicate of itself.
            if (is_from(frame, guest_.nics[index]->interface.mac)) continue;
            nic.bytes += frame.size();
            nic.frames.push_back(std::move(frame));
        }
        nic.dropped += caught.dropped;
    }
    return taken;
}

Task<Result<>> SourceFrames::send_rest(PeerChannel& peer, bool answered, Deadline deadline) {
    for (std::size_t index = 0; index < nics_.size(); ++index) {
        auto& nic = nics_[index];
        while (nic.sent < nic.frames.size()) {
            auto const rest = std::span(nic.frames).subspan(nic.sent);
            auto const batch = rest.first(netmove::frames_within(rest, limits::frames_bytes_max));
            protocol::Frames message{index, nic.sent, netmove::to_wire(batch)};
            bool const last = batch.size() == rest.size();
            if (answered && last) {  // in order: a peer that has this one has the earlier ones
                CO_TRY_VOID(co_await peer.request(std::move(message), deadline));
            } else {
                CO_TRY_VOID(co_await peer.notify(std::move(message), deadline));
            }
            nic.sent += batch.size();
        }
    }
    co_return Result<>{};
}

Task<Result<std::vector<std::uint64_t>>> SourceFrames::send(PeerChannel& peer, Deadline deadline) {
    nics_.resize(guest_.nics.size());  // after a restart begin() was not called
    recorders_stop_.request_stop();
    co_await recorders_.join();
    recover(false);
    CO_TRY_VOID(take());
    for (auto& nic : nics_) nic.sent = 0;
    CO_TRY_VOID(co_await send_rest(peer, false, deadline));
    std::vector<std::uint64_t> counts;
    for (auto const& nic : nics_) counts.push_back(nic.frames.size());
    co_return counts;
}

/// One descriptor that is readable when a frame waits in any ring.
Result<core::Fd> SourceFrames::any_ring() const {
    core::Fd all(epoll_create1(EPOLL_CLOEXEC));
    if (!all) return core::fail_errno(errno, "cannot watch the taps of {}", guest_.name);
    for (std::size_t index = 0; index < guest_.nics.size(); ++index) {
        if (left_to_anchor_.contains(index)) continue;
        auto const& nic = guest_.nics[index];
        for (int queue = 0; queue < nic->tap.queues(); ++queue) {
            epoll_event wanted{};
            wanted.events = EPOLLIN;
            if (epoll_ctl(all.get(), EPOLL_CTL_ADD, nic->tap.descriptor(queue), &wanted) < 0) {
                return core::fail_errno(errno, "cannot watch the tap {}", nic->tap.name());
            }
        }
    }
    return all;
}

/// Whether a bridge or a route of this host still sends a guest's frames to its tap here.
Result<bool> SourceFrames::known_here() const {
    for (std::size_t index = 0; index < guest_.nics.size(); ++index) {
        if (left_to_anchor_.contains(index)) continue;
        auto const& nic = guest_.nics[index];
        if (nic->interface.routed) {
            TRY(auto const routed, netmove::renewals_of(*guest_.netlink, nic->tap.name()));
            if (routed) return true;
        }
        TRY(auto const link, guest_.netlink->find_link(nic->tap.name()));
        if (!link || link->master == 0) continue;
        TRY(auto const table, guest_.netlink->fdb(link->master));
        for (auto const& entry : table) {
            if (entry.mac == nic->interface.mac && entry.port == link->index) return true;
        }
    }
    return false;
}

Task<Result<>> SourceFrames::follow(PeerChannel& peer, Deadline deadline) {
    if (guest_.nics.size() <= left_to_anchor_.size()) co_return Result<>{};
    following_ = true;
    nics_.resize(guest_.nics.size());  // after a restart send() was not called
    CO_TRY(auto const rings, any_ring());
    std::size_t before = 0;
    for (auto const& nic : nics_) before += nic.frames.size();
    // What is in the rings now goes before the frames that wait at the destination for this.
    CO_TRY_VOID(take());
    CO_TRY_VOID(co_await send_rest(peer, true, deadline));
    CO_TRY_VOID(co_await peer.notify(protocol::Frames{0, nics_.front().sent, {}}, deadline));
    while (!deadline.passed()) {
        auto const silence = deadline.sooner(limits::straggler_silence);
        auto const came = co_await guest_.loop.poll(rings.get(), POLLIN, silence);
        if (!came && came.error().code != Errc::timed_out) co_return std::unexpected(came.error());
        CO_TRY(auto const taken, take());
        CO_TRY_VOID(co_await send_rest(peer, true, deadline));
        if (came && taken == 0) break;  // a tap that is gone is readable for ever
        if (came) continue;
        CO_TRY(bool const still, known_here());
        if (!still) break;
    }
    for (auto const& nic : nics_) late_ += nic.frames.size();
    late_ -= before;
    count_dropped();
    co_return Result<>{};
}

void SourceFrames::count_dropped() {
    for (std::size_t index = 0; index < nics_.size(); ++index) {
        auto const link = guest_.netlink->find_link(guest_.nics[index]->tap.name());
        if (!link || !*link || (*link)->dropped < nics_[index].dropped_before) continue;
        nics_[index].dropped += (*link)->dropped - nics_[index].dropped_before;
        nics_[index].dropped_before = (*link)->dropped;
    }
}

Task<Result<>> SourceFrames::put_back() {
    recorders_stop_.request_stop();
    co_await recorders_.join();
    nics_.resize(guest_.nics.size());
    recover(true);
    bool any = false;
    for (auto const& nic : nics_) any = any || nic.frames.size() > (nic.qemu_has_one ? 1 : 0);
    // Frames that arrived since belong after those that are put back. With none to put back, the
    // rings stay as they are, for QEMU.
    if (any) CO_TRY_VOID(take());
    for (std::size_t index = 0; index < nics_.size(); ++index) {
        auto& nic = nics_[index];
        CO_TRY(auto const* const ring, injector(index));
        for (std::size_t frame = 0; frame < nic.frames.size(); ++frame) {
            if (nic.qemu_has_one && frame + 1 == nic.recovered) continue;
            CO_TRY(bool const put, ring->put(nic.frames[frame]));
            ++(put ? returned_ : nic.dropped);
        }
        nic = {};
    }
    co_return Result<>{};
}

Result<> SourceFrames::take_back(protocol::ReturnFramesAnswer const& answer) {
    auto rest = std::span(answer.bytes);
    for (auto const& part : answer.parts) {
        auto const index = part.nic;
        if (index >= guest_.nics.size()) {
            return fail(Errc::protocol,
                        "the destination has frames of NIC {}, which does not exist", index);
        }
        TRY(auto const frames, netmove::from_wire(rest.first(part.size)));
        rest = rest.subspan(part.size);
        TRY(auto const* const ring, injector(index));
        nics_.resize(guest_.nics.size());
        for (auto const& frame : frames) {
            TRY(bool const put, ring->put(frame));
            ++(put ? returned_ : nics_[index].dropped);
        }
    }
    return {};
}

void SourceFrames::remove_gates() {
    for (std::size_t index = 0; index < guest_.nics.size(); ++index) {
        if (left_to_anchor_.contains(index)) continue;  // under traffic
        auto const& nic = guest_.nics[index];
        auto const removed = netmove::Gate::remove(*guest_.netlink, nic->tap.name());
        if (!removed) core::log::debug("guest={} {}", guest_.name, removed.error().sentence());
    }
}

Json SourceFrames::report() const {
    std::uint64_t caught = 0;
    std::uint64_t dropped = 0;
    std::uint64_t recovered = 0;
    for (auto const& nic : nics_) {
        caught += nic.frames.size();
        recovered += nic.recovered;
        dropped += nic.dropped;
    }
    auto made = Json::object({{"caught", caught},
                              {"recovered", recovered},
                              {"late", static_cast<std::uint64_t>(late_)},
                              {"dropped", dropped},
                              {"returned", static_cast<std::uint64_t>(returned_)}});
    if (delivered_) {
        made.set("replayed", delivered_->replayed);
        made.set("waited", delivered_->waited);
        made.set("lost", delivered_->lost);
    }
    return made;
}

}  // namespace sidecar
