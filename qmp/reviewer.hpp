// Reviewer: what the reviews of single options share: the policy, what was looked up in the line
// once, and what was found so far. Only for launch_policy.cpp and review_*.cpp. Invariant: a review
// that finds nothing to refuse has looked at every key of the option.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "qmp/launch_policy.hpp"

namespace qmp {

/// A file that a -blockdev names.
struct BlockFile {
    Option const* option;
    std::string name;
    bool is_written = false;  ///< By a device, through the nodes above it.
    ImageFormat format = ImageFormat::raw;
};

class Reviewer {
public:
    Reviewer(CommandLine const& line, LaunchPolicy const& policy);

    [[nodiscard]] std::vector<BlockFile> const& block_files() const { return block_files_; }
    /// Whether a monitor may be on the character device: others than the operator must not reach
    /// it.
    [[nodiscard]] bool is_private_chardev(std::string const& id) const {
        return private_chardevs_.contains(id);
    }
    [[nodiscard]] LaunchPolicy const& policy() const { return policy_; }

    void refuse(Option const& option, std::string why);
    /// Lists the file, or refuses the option: `path` is relative or below no directory that may be
    /// used so.
    void use(Option const& option, std::string const& path, FileAccess access,
             ImageFormat format = ImageFormat::none);
    /// A file to be read, or the name of one in QEMU's own data directory.
    void use_data_file(Option const& option, std::string const& name);

    /// Whether the caller knows a key by itself and has dealt with it.
    using Special = std::function<bool(std::string const& key, std::string const& value)>;
    /// The option's keys, each of them known: by `special`, which is asked first, or as a word of
    /// `keys`. Others are refused, as are keys that are given twice and JSON, unless `json`. The
    /// numbers of list elements are left out: "vqs.0" is "vqs".
    Settings check_keys(Option const& option, std::string_view keys, Special const& special = {},
                        bool json = false);
    /// The same with a rule instead of words.
    Settings check_keys(Option const& option, std::function<bool(std::string_view)> const& known,
                        Special const& special, bool json);

    std::vector<RefusedOption> refusals;
    std::vector<FileUse> files;

private:
    LaunchPolicy const& policy_;
    std::vector<BlockFile> block_files_;
    std::set<std::string> private_chardevs_;
};

namespace review {

// review_block.cpp
void image_option(Reviewer& reviewer, Option const& option);  ///< -hda, -cdrom, -pflash, ...
void drive(Reviewer& reviewer, Option const& option);
void blockdev(Reviewer& reviewer, Option const& option);
std::vector<BlockFile> block_files(CommandLine const& line);

// review_devices.cpp
void device(Reviewer& reviewer, Option const& option);
void global(Reviewer& reviewer, Option const& option);
void object(Reviewer& reviewer, Option const& option);
void machine(Reviewer& reviewer, Option const& option);
void accel(Reviewer& reviewer, Option const& option);
void tpmdev(Reviewer& reviewer, Option const& option);

// review_network.cpp
void netdev(Reviewer& reviewer, Option const& option);
void nic(Reviewer& reviewer, Option const& option);  ///< -nic
void net(Reviewer& reviewer, Option const& option);  ///< -net

// review_characters.cpp
void chardev(Reviewer& reviewer, Option const& option);
void character(Reviewer& reviewer, Option const& option);  ///< -serial, -parallel, -debugcon
void monitor(Reviewer& reviewer, Option const& option);  ///< -monitor, -qmp, -qmp-pretty
void mon(Reviewer& reviewer, Option const& option);
void vnc(Reviewer& reviewer, Option const& option);
void spice(Reviewer& reviewer, Option const& option);
/// Ids of the character devices that only a Unix socket, a pty or nothing is behind.
std::set<std::string> private_chardevs(CommandLine const& line);

}  // namespace review

/// `key` without the numbers of list elements.
std::string without_numbers(std::string_view key);
/// Letters, digits and "-_.:@".
bool is_word(std::string_view text);
/// A list of numbers between colons, each of which is a descriptor of ours.
bool are_our_descriptors(LaunchPolicy const& policy, std::string_view list);

}  // namespace qmp
