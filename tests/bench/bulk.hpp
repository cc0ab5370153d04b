// The two ends of the bulk benchmark and the peers that copy between them: two QEMUs without a
// guest, an image in the first and an empty one in the second. Used by bulk.cpp and distance.cpp.
#pragma once

#include <cstdlib>
#include <memory>
#include <optional>
#include <string>

#include "core/loop.hpp"
#include "qmp/client.hpp"
#include "storage/mirror.hpp"
#include "storage/target.hpp"
#include "tests/support/command.hpp"

namespace bench {

/// A finished copy.
struct Copied {
    double seconds = 0;
    double cpu_seconds = 0;  ///< Of the copying process and both QEMUs.
    double own_cpu_seconds = 0;  ///< Of this process alone: the whole copy in our case.
    double target_loop_seconds = 0;  ///< Of the thread in which the destination's QEMU receives it.
    double rss_mib = 0;  ///< The peak memory of the copying process; 0: not known.
};

/// For the images and sockets of a benchmark; removed at the end. The leftovers of a benchmark that
/// was killed are removed by the next one in the same place.
struct Directory {
    explicit Directory(std::string const& parent);
    ~Directory() {
        std::error_code ignored;
        lab::fs::remove_all(path, ignored);
    }
    Directory(Directory const&) = delete;
    lab::fs::path path;
};

/// Where the two QEMUs are: their namespaces ("": this one), the destination's address in its own,
/// and whether the data is encrypted, as it is in a migration.
struct Ends {
    std::string from_netns = {};
    std::string to_netns = {};
    std::string address = "127.0.0.1";
    bool encrypted = false;
};

/// The environment of one copy, new for each: the page cache of the source's image is warm, the
/// destination's image is empty.
class BulkPair {
public:
    BulkPair(core::Loop& loop, std::string const& qemu, lab::fs::path const& directory,
             std::uint64_t bytes, Ends const& ends = {});
    ~BulkPair() { end(); }
    BulkPair(BulkPair const&) = delete;

    static lab::fs::path source_image(lab::fs::path const& directory) {
        return directory / "source.raw";
    }
    /// Waits for a task; throws on an error.
    template <class T>
    T must(core::Task<core::Result<T>> task) {
        auto result = loop_.run(std::move(task));
        if (!result) throw lab::Failure(result.error().sentence());
        if constexpr (!std::is_void_v<T>) return std::move(*result);
    }

    [[nodiscard]] core::Loop& loop() { return loop_; }
    [[nodiscard]] qmp::Client& source() { return *source_; }
    [[nodiscard]] std::string port() const { return target_address_.port; }
    /// The destination's address for the disk, "d0".
    [[nodiscard]] storage::Destination const& target() const { return target_address_; }
    [[nodiscard]] std::string const& directory() const { return directory_; }
    [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
    /// Throws unless the destination's image equals the source's. Ends both QEMUs.
    void compare();
    /// The processor time so far of both QEMUs, this process and its ended children.
    [[nodiscard]] double cpu_seconds() const;
    /// Of this process alone.
    [[nodiscard]] static double own_cpu_seconds();
    /// Of the main thread of the destination's QEMU, which receives, decrypts and dispatches the
    /// writes.
    [[nodiscard]] double target_loop_seconds() const;

    Copied nbdcopy();
    Copied convert();
    Copied mirror();

private:
    void connect(Ends const& ends);
    void end();
    std::string make_key();
    std::string export_source();
    [[nodiscard]] bool encrypted() const { return !target_address_.psk_file.empty(); }
    [[nodiscard]] std::string target_uri() const;

    core::Loop& loop_;
    std::string directory_;
    std::uint64_t bytes_;
    std::optional<lab::Daemon> from_;
    std::optional<lab::Daemon> to_;
    std::unique_ptr<qmp::Client> source_;
    std::unique_ptr<qmp::Client> destination_;
    std::optional<storage::Target> target_;
    storage::Destination target_address_;
};

}  // namespace bench
