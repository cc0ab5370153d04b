// One end of a tunnel: between a tap and a Peer. Used by Hub. Its coroutines are one that keeps the
// times (maintain), one for each queue of the tap, and one while the path is tested.
//
// Invariant: a queue is read only while forward() holds, the peer is established, and all that was
// read before has been given to the kernel.
#pragma once

#include <memory>
#include <optional>
#include <stop_token>

#include "netmove/tunnel/peer.hpp"
#include "netmove/tunnel/port.hpp"

namespace netmove::tunnel {

/// Frames and bytes that are read from a queue before others have their turn: some 100 µs of work.
constexpr std::size_t batch_frames_max = 64;
constexpr std::size_t batch_bytes_max = 256 * 1024;

/// While frames flow, a ping of the tested size is sent so often; then, until it is answered, after
/// each retry interval. Unanswered confirm_tries_max times, the path is tested again.
constexpr core::seconds confirm_interval{5};
constexpr core::milliseconds confirm_retry{500};
constexpr int confirm_tries_max = 3;

class End final : public Tunnel,
                  private PeerOwner,
                  private PlainSink,
                  private RecordSink,
                  private FrameSink {
public:
    End(Parts& parts, Key key, Role role, std::optional<Endpoint> peer);
    /// Begins to reach the peer.
    void start();
    /// Ends all tasks, also those that wait in it.
    core::Task<void> stop();
    /// A datagram with this tunnel's id.
    void arrived(Datagram const& datagram, Path const& from, core::Clock::time_point now);

    [[nodiscard]] Key const& key() const override { return key_; }
    core::Task<core::Result<>> established(core::Deadline deadline) override;
    [[nodiscard]] bool is_established() const override { return peer_.established(); }
    core::Task<core::Result<PathTest>> test_path(core::Deadline deadline) override;
    core::Result<> attach(Tap const& tap) override;
    core::Result<> forward() override;
    void hold() override;
    void accept(bool on) override { accept_ = on; }
    [[nodiscard]] Statistics statistics() const override;

private:
    struct Probe {
        std::uint32_t token;
        std::size_t size;
        core::Clock::time_point sent;
        std::optional<core::Clock::duration> round_trip;
    };

    // PeerOwner
    void received(ByteView plain, std::uint64_t sender) override;
    void ponged(Ping const& pong) override;
    void peer_tested(std::size_t datagram_max) override;
    [[nodiscard]] std::size_t tested() const override { return tested_; }
    void changed() override;
    void moved(bool test) override;
    void wake() override { wake_.set(); }
    // The sinks of Packer, of the session, and of Reassembly.
    void put(ByteView plain) override { (void)peer_.seal(plain, *this); }
    void record(ByteView record) override { parts_.outgoing.put(key_.id, record); }
    void frame(FrameView frame) override;

    core::Task<void> maintain(std::stop_token stop);
    core::Task<void> read_queue(std::shared_ptr<Port> port, int queue, std::stop_token stop);
    bool forward_batch(Port& port, int queue);
    [[nodiscard]] bool flowing() const { return forwarding_ && peer_.established(); }
    void update_flow();
    void note_traffic(core::Clock::time_point now);
    void set_datagram_max(std::size_t bytes);

    // path.cpp
    /// Asks, while frames flow, whether datagrams of the tested size still pass (RFC 8899 4.3: a
    /// router may drop them without a word). When it is to be called again.
    core::Clock::time_point confirm_path(core::Clock::time_point now);
    core::Task<void> test_in_background(std::stop_token stop);
    core::Task<core::Result<PathTest>> measure(core::Deadline deadline);
    core::Task<core::Result<core::Clock::duration>> find_round_trip(core::Deadline deadline);
    core::Task<core::Result<std::size_t>> largest_of(std::vector<std::size_t> sizes,
                                                     core::Deadline deadline);
    core::Task<void> tell_peer(core::Deadline deadline);
    void send_probe(std::size_t size, std::size_t tested = 0);
    [[nodiscard]] std::size_t largest_answered() const;
    [[nodiscard]] bool all_answered() const;

    Parts& parts_;
    Key key_;
    Peer peer_;
    Packer packer_;
    Reassembly reassembly_;
    core::TaskGroup tasks_;
    core::CallGate calls_;
    std::stop_source stop_;
    bool stopping_ = false;
    core::Event established_;  ///< Set while it is, and when the end stops.
    core::Event flow_;  ///< Set while flowing().
    core::Event wake_;
    core::Clock::time_point planned_ = core::Clock::time_point::max();  ///< maintain() wakes then.

    std::shared_ptr<Port> port_;
    std::stop_source port_stop_;
    bool forwarding_ = false;
    bool forwarded_ = false;  ///< Since attach().
    std::optional<bool> accept_;  ///< None: from forward() on.

    std::size_t datagram_max_ = datagram_min;
    std::size_t tested_ = 0;  ///< datagram_max_ once it was tested, else 0.
    std::optional<PathTest> path_test_;
    bool test_due_ = false;
    core::Clock::time_point tested_at_{};
    core::Semaphore testing_;
    std::vector<Probe> probes_;
    core::Event pong_;
    std::uint32_t next_token_ = 1;
    core::Clock::time_point confirm_due_ = core::Clock::time_point::max();
    int confirm_tries_ = 0;  ///< Unanswered.
    std::uint32_t confirm_from_ = 0;  ///< The token of the first of them.

    core::Clock::time_point now_{};  ///< Of the batch that is received.
    Statistics counts_;
};

}  // namespace netmove::tunnel
