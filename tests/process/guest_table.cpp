#include "tests/process/guest_table.hpp"

#include <fmt/ranges.h>
#include <sys/stat.h>

#include <regex>
#include <set>

#include "tests/process/move_lab.hpp"
#include "tests/support/guest.hpp"
#include "tests/support/qmp_probe.hpp"
#include "tests/support/swtpm.hpp"

namespace guest_table {

using namespace move_lab;
using core::Json;

namespace {

constexpr auto guest_ends_limit = 20s;

/// What every guest of the table has, unless its row says otherwise.
Argv const usual_base{"-M", "pc,accel=tcg", "-m", "64", "-nodefaults", "-display", "none"};

std::string with(std::string text, std::string const& from, std::string const& to) {
    for (auto at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
        text.replace(at, from.size(), to);
    return text;
}

/// The files that rows use. Those whose name starts with `ro-` are on both hosts.
void make_guest_files(std::string const& directory) {
    auto const in = [&](std::string const& name) { return directory + "/" + name; };
    auto const image = [&](std::string const& format, std::string const& name,
                           Argv const& options = {}) {
        Argv create{"qemu-img", "create", "-q", "-f", format};
        create.insert(create.end(), options.begin(), options.end());
        create.insert(create.end(), {in(name), "1M"});
        lab::must_run(create);
        lab::must_run({"qemu-io", "-f", format, "-c", "write -q -P 7 64k 128k", in(name)});
    };
    lab::fs::create_directories(directory);
    for (auto const* const name : {"one.raw", "two.raw", "a b.raw", "a,b.raw", "\u00fc.raw",
                                   "base.raw", "ro-seed.raw", "ro-cd.iso"}) {
        image("raw", name);
    }
    lab::must_run({"truncate", "--size=+512", in("one.raw")});  // no multiple of 4 KiB
    image("raw", "floppy.raw");
    lab::must_run({"truncate", "--size=1440K", in("floppy.raw")});
    image("raw", "part.raw");
    lab::must_run({"dd", "if=" + in("part.raw"), "of=" + in("inside-part.raw"), "bs=64K", "skip=1",
                   "count=8", "status=none"});
    image("raw", "card.raw");
    lab::must_run({"truncate", "--size=2M", in("card.raw")});
    image("qcow2", "one.qcow2");
    image("qcow2", "two.qcow2");
    image("qcow2", "big-clusters.qcow2", {"-o", "cluster_size=1M"});
    image("qcow2", "subclusters.qcow2", {"-o", "extended_l2=on,cluster_size=128k"});
    image("qcow2", "old.qcow2", {"-o", "compat=0.10"});
    image("qcow2", "zstd.qcow2", {"-o", "compression_type=zstd"});
    image("qcow2", "lazy.qcow2", {"-o", "lazy_refcounts=on"});
    image("qcow2", "refcounts.qcow2", {"-o", "refcount_bits=1"});
    image("qcow2", "middle.qcow2", {"-b", in("base.raw"), "-F", "raw"});
    image("qcow2", "top.qcow2", {"-b", in("middle.qcow2"), "-F", "qcow2"});
    image("qcow2", "external.qcow2", {"-o", "data_file=" + in("external.raw")});
    // qemu-img measures the processor first, and may fail on a busy machine: "Unable to get
    // accurate CPU usage".
    Argv const encrypt{"qemu-img",
                       "create",
                       "-q",
                       "-f",
                       "qcow2",
                       "--object",
                       "secret,id=s,data=secret",
                       "-o",
                       "encrypt.format=luks,encrypt.key-secret=s",
                       in("encrypted.qcow2"),
                       "1M"};
    constexpr int tries = 5;
    for (int count = 1; count < tries && lab::run(encrypt).exit_status != 0; ++count) {
    }
    REQUIRE(lab::fs::exists(in("encrypted.qcow2")));
    for (auto const* const format : {"vdi", "vmdk", "vhdx"}) {
        lab::must_run(
            {"qemu-img", "create", "-q", "-f", format, in(std::string("one.") + format), "1M"});
    }
    lab::write_file(in("ro-random"), std::string(4096, 'r'));
}

/// A name of this host's directory in an answer of QEMU becomes {d}; a number that QEMU gives to a
/// device without an id is left out.
std::string comparable(std::string const& text, std::string const& directory) {
    static std::regex const number(R"(/device\[\d+\])");
    return std::regex_replace(with(text, directory, "{d}"), number, "/device");
}

/// Of a path, or of the JSON that QEMU prints for a part of a file: "{d}/NAME".
std::string file_name_in(std::string const& text) {
    auto const name = text.substr(text.rfind('/') + 1);
    return "{d}/" + name.substr(0, name.find('"'));
}

/// A device in QOM: its kind, its place, and what was given to it.
std::string device_line(lab::Qmp& qmp, std::string const& path, std::string const& kind) {
    std::set<std::string> properties;
    for (auto const& one : qmp.execute("qom-list", Json::object({{"path", path}})).elements())
        properties.insert(one["name"].text_or(""));
    auto line = path + " " + kind;
    for (std::string const key :
         {"parent_bus", "addr", "mac", "bootindex", "serial", "lun", "scsi-id", "nr", "num-queues",
          "mq", "share-rw", "slot", "core-id"}) {
        if (!properties.contains(key)) continue;
        auto const value =
            qmp.execute("qom-get", Json::object({{"path", path}, {"property", key}}));
        // Where the chipset's own buses are in QOM differs between versions of QEMU.
        static std::regex const own(R"(/machine/unattached/.*/)");
        line += fmt::format(" {}={}", key, std::regex_replace(value.dump(), own, ""));
    }
    return line;
}

/// All devices that were made by -device and device_add, and the ports of those of USB.
std::string other_devices(lab::Qmp& qmp) {
    std::vector<std::string> lines;
    for (std::string const parent : {"/machine/peripheral", "/machine/peripheral-anon"}) {
        auto const list = qmp.execute("qom-list", Json::object({{"path", parent}}));
        for (auto const& child : list.elements()) {
            auto const kind = child["type"].text_or("");
            if (!contains(kind, "child<")) continue;
            auto const line = device_line(qmp, parent + "/" + child["name"].text_or(""), kind);
            lines.push_back(std::regex_replace(line, std::regex(R"(device\[\d+\])"), "device"));
        }
    }
    auto const usb =
        qmp.execute("human-monitor-command", Json::object({{"command-line", "info usb"}}))
            .text_or("");
    // "  Device 0.1, Port 2, ...": the guest gives the addresses.
    static std::regex const port(R"(Port .*)");
    for (std::sregex_iterator at(usb.begin(), usb.end(), port), end; at != end; ++at)
        lines.push_back(at->str());
    std::ranges::sort(lines);
    return fmt::format("{}\n", fmt::join(lines, "\n"));
}

/// What must not change by a move, as QEMU reports it.
std::string state_of(std::string const& directory) {
    lab::Qmp qmp(directory + "/probe.sock");
    std::string text;
    for (auto const& block : qmp.execute("query-block").elements()) {
        auto const inserted = block["inserted"];
        // The guest does not see it: QEMU 7.2 has an empty drive for an SD card, 10.0 has none.
        if (block["qdev"].text_or("").empty() && inserted.is_null()) continue;
        text += fmt::format("{} {} removable {} open {}\n", block["device"].text_or(""),
                            block["qdev"].text_or(""), block["removable"].boolean_or(false),
                            block["tray_open"].boolean_or(false));
        if (inserted.is_null()) continue;
        auto const image = inserted["image"];
        bool const direct = inserted["cache"]["direct"].boolean_or(false);
        text +=
            fmt::format("  {} {} read-only {} direct {} zeroes {} size {} limits {} {}\n",
                        file_name_in(image["filename"].text_or("")), inserted["drv"].text_or(""),
                        inserted["ro"].boolean_or(false), direct,
                        inserted["detect_zeroes"].text_or(""), image["virtual-size"].integer_or(-1),
                        inserted["bps"].integer_or(-1), inserted["iops"].integer_or(-1));
    }
    for (auto const& bus : qmp.execute("query-pci").elements()) {
        for (auto const& device : bus["devices"].elements()) {
            text += fmt::format("pci {}:{}.{} {:x} {} {}\n", bus["bus"].integer_or(-1),
                                device["slot"].integer_or(-1), device["function"].integer_or(-1),
                                device["class_info"]["class"].integer_or(-1), device["id"].dump(),
                                device["qdev_id"].text_or(""));
        }
    }
    text += other_devices(qmp);
    text += "status " + qmp.status() + "\n";
    return comparable(text, directory);
}

class Table {
public:
    Table(std::string from, std::string to) : from_(std::move(from)), to_(std::move(to)) {
        make_guest_files(templates_);
        sh(
            fmt::format("ip -n {0} link add wire type veth peer name wire netns {1};"
                        "ip -n {0} link add lan type veth peer name lan netns {1}",
                        a_.netns, b_.netns));
        for (auto* const host : {&a_, &b_}) {
            {
                lab::Visit const visit(host->netns);
                make_bridge("br0");
                sh(
                    fmt::format("ip address add {}/24 dev wire; ip link set wire up;"
                                "ip link set lan master br0 up",
                                host->address));
            }
            start_serve(*host, host == &a_ ? from_ : to_);
        }
    }

    /// Moves the row's guest there, and back if both hosts have the same QEMU.
    void run(Row const& row) {
        guest_ = fmt::format("row{}", ++number_);
        lay_out_files(row);
        start(row);
        for (auto const& command : row.then) give(command);
        if (!row.refused.empty()) {
            check_refused(row);
        } else {
            move(a_, b_);
            if (from_ == to_) move(b_, a_);
        }
        end();
    }

    /// Ends what a row that failed has left.
    void end() {
        run_.reset();
        for (auto const* const host : {&a_, &b_}) {
            host->kill_qemu();
            lab::wait_until("the end of the guest's processes", guest_ends_limit, [&] {
                return lab::processes_in(host->netns).size() == 1;  // `serve`
            });
            lab::fs::remove_all(files_of(*host));
        }
    }

private:
    [[nodiscard]] static std::string files_of(MoveHost const& host) {
        return host.directory + "/g";
    }

    void start_serve(MoveHost& host, std::string const& qemu) const {
        Argv words{"--map-path", files_of(a_) + "=" + files_of(b_), "--map-path",
                   files_of(b_) + "=" + files_of(a_)};
        if (from_ != to_) words.insert(words.end(), {"--qemu", storage_lab::qemus().at(qemu)});
        host.start_serve(words);
    }

    /// Those that the row names, and those that others name.
    void lay_out_files(Row const& row) const {
        std::string text;
        for (auto const& option : row.options) text += with(option, ",,", ",") + "\n";
        for (auto const& command : row.then) text += command + "\n";
        for (auto const* const host : {&a_, &b_}) lab::fs::create_directories(files_of(*host));
        for (auto const& entry : lab::fs::directory_iterator(templates_)) {
            auto const name = entry.path().filename().string();
            bool const below = name == "base.raw" || name == "middle.qcow2" ||
                               name == "top.qcow2" || name == "external.raw";
            if (!below && !contains(text, "{d}/" + name)) continue;
            lab::fs::copy(entry.path(), files_of(a_) + "/" + name);
            if (name.starts_with("ro-")) lab::fs::copy(entry.path(), files_of(b_) + "/" + name);
        }
        // They name the files under them by their path.
        for (auto const& [top, below, format] :
             {std::tuple("middle.qcow2", "base.raw", "raw"),
              std::tuple("top.qcow2", "middle.qcow2", "qcow2")}) {
            lab::must_run({"qemu-img", "rebase", "-u", "-b", files_of(a_) + "/" + below, "-F",
                           format, files_of(a_) + "/" + top});
        }
    }

    void start(Row const& row) {
        Argv words{"run",       guest_,      "--bridge", "br0",
                   "--address", "10.1.0.10", "--",       storage_lab::qemus().at(from_)};
        auto const add = [&](Argv const& options) {
            for (auto const& option : options) {
                words.push_back(with(with(option, "{d}", files_of(a_)), "{tap}", "tap-" + guest_));
            }
        };
        add(row.base.empty() ? usual_base : row.base);
        add(row.options);
        add({"-qmp", "unix:{d}/probe.sock,server=on,wait=off"});
        if (!row.tpm.empty()) {
            tpm_.emplace(lab::start_swtpm("swtpm-" + guest_, files_of(a_) + "/tpm",
                                          files_of(a_) + "/swtpm.sock", lab::Place{a_.netns, {}},
                                          row.tpm));
        }
        run_.emplace("run-" + guest_, a_.command(words), lab::Place{a_.netns, {}}, a_.directory);
        lab::wait_until("the guest to run", 30s, [&] {
            if (!run_->running()) throw lab::Failure("`run` ended: " + run_->err());
            return contains(a_.sidecar({"status", guest_}).out, "running");
        });
    }

    /// A command of Row::then, to the guest on host a.
    void give(std::string const& row_command) const {
        auto const tap = "tap-" + guest_;
        auto const command = with(with(row_command, "{d}", files_of(a_)), "{tap}", tap);
        lab::Qmp qmp(files_of(a_) + "/probe.sock");
        auto const space = command.find(' ');
        auto const name = command.substr(0, space);
        auto const rest = command.substr(space + 1);
        if (name == "hmp") {
            auto const said =
                qmp.execute("human-monitor-command", Json::object({{"command-line", rest}}))
                    .text_or("");
            // It answers to drive_add with "OK".
            if (!said.empty() && !said.starts_with("OK")) throw lab::Failure(command + ": " + said);
            return;
        }
        qmp.execute(name, lab::parse_json(rest));
        if (name == "device_del") qmp.wait_event("DEVICE_DELETED");
        if (name == "netdev_add" && contains(command, tap)) {
            lab::Visit const visit(a_.netns);
            sh(fmt::format("ip link set {} master br0 up", tap));
        }
    }

    [[nodiscard]] lab::Output migrate(MoveHost const& from, MoveHost const& to,
                                      Argv const& more) const {
        Argv words{"migrate",     "--with-storage",   guest_, to.address,
                   "--plaintext", "--downtime-limit", "20000"};
        words.insert(words.end(), more.begin(), more.end());
        return from.sidecar(words);
    }

    [[nodiscard]] static std::string listing(MoveHost const& host) {
        return host.in("ls -lR --time-style=full-iso " + files_of(host));
    }

    void check_refused(Row const& row) {
        auto const before = listing(b_);
        auto const checked = migrate(a_, b_, {"--check"});
        INFO(checked.out << checked.err);
        CHECK(checked.exit_status == 3);
        CHECK(contains(checked.err, row.refused));
        CHECK(listing(b_) == before);
        CHECK(lab::Qmp(files_of(a_) + "/probe.sock").status() == "running");
    }

    void move(MoveHost const& from, MoveHost const& to) {
        auto const before = state_of(files_of(from));
        auto const checked = migrate(from, to, {"--check"});
        if (checked.exit_status != 0)
            throw lab::Failure("refused in the check: " + checked.out + checked.err);
        auto const moved = migrate(from, to, {});
        if (moved.exit_status != 0)
            throw lab::Failure("--check said OK, and it failed: " + moved.out + moved.err);
        auto const after = state_of(files_of(to));
        CHECK(after == before);
        check_images(to, after);
    }

    /// The images that the guest has there hold what those of the templates hold, and belong to
    /// the same user. `state`: by state_of().
    void check_images(MoveHost const& host, std::string const& state) const {
        for (auto const& entry : lab::fs::directory_iterator(templates_)) {
            auto const name = entry.path().filename().string();
            auto const image = files_of(host) + "/" + name;
            bool const is_qcow2 = entry.path().extension() == ".qcow2";
            if (!contains(state, "{d}/" + name + " ")) continue;
            auto const content = templates_ + (name == "part.raw" ? "/inside-" : "/") + name;
            lab::compare_images(content, is_qcow2 ? "qcow2" : "raw", image);
            struct stat expected{};
            struct stat seen{};
            CHECK(stat(entry.path().c_str(), &expected) == 0);
            CHECK(stat(image.c_str(), &seen) == 0);
            CHECK(seen.st_mode == expected.st_mode);
            CHECK(seen.st_uid == expected.st_uid);
        }
    }

    std::string from_;
    std::string to_;
    storage_lab::Directory directory_;
    std::string templates_ = directory_.path("templates");
    MoveHost a_{"a", 1, directory_.text()};
    MoveHost b_{"b", 2, directory_.text()};
    std::optional<lab::Daemon> tpm_;
    std::optional<lab::Daemon> run_;
    std::string guest_;
    int number_ = 0;
};

void run_table(std::vector<Row> const& rows, std::string const& from, std::string const& to) {
    Table table(from, to);
    for (auto row : rows) {
        if (from != to && !row.refused_by_newer.empty()) row.refused = row.refused_by_newer;
        if (!row.only.empty() && (row.only != from || row.only != to)) continue;
        std::string failed;
        try {
            INFO("QEMU " << from << " -> " << to << ": " << row.name);
            table.run(row);
            continue;
        } catch (lab::Failure const& failure) {
            failed = failure.what();
        }
        FAIL_CHECK("QEMU " << from << " -> " << to << ": " << row.name << ": " << failed);
        table.end();
    }
}

}  // namespace

void each_row_moves_or_is_refused(std::vector<Row> const& rows) {
    auto const qemus = storage_lab::qemus();
    for (auto const& [version, binary] : qemus) run_table(rows, version, version);
    if (qemus.contains("7.2") && qemus.contains("10.0")) run_table(rows, "7.2", "10.0");
}

}  // namespace guest_table
