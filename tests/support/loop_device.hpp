// LoopDevice: a block device of the tests, over a file of theirs. Used by the process and vm tests.
// All hosts of a lab are namespaces of one kernel and see it. Invariant: it is detached with its
// object, also when the test fails.
#pragma once

#include <string>

#include "tests/support/command.hpp"

namespace lab {

class LoopDevice {
public:
    /// Over `backing`, an existing file of whole blocks of 512 bytes.
    explicit LoopDevice(fs::path const& backing)
        : path_(first_line(must_run({"losetup", "-f", "--show", backing.string()}))) {}
    ~LoopDevice() {
        // The kernel keeps the flag for the next file that is attached under this name.
        run({"blockdev", "--setrw", path_});
        run({"losetup", "-d", path_});
    }
    LoopDevice(LoopDevice const&) = delete;

    [[nodiscard]] std::string const& path() const { return path_; }
    [[nodiscard]] bool read_only() const {
        return first_line(must_run({"blockdev", "--getro", path_})) == "1";
    }
    void set_read_only(bool whether) const {
        must_run({"blockdev", whether ? "--setro" : "--setrw", path_});
    }

private:
    static std::string first_line(std::string const& text) {
        return text.substr(0, text.find('\n'));
    }

    std::string path_;
};

}  // namespace lab
