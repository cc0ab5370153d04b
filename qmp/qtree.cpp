#include "qmp/qtree.hpp"

#include <sstream>

#include "qmp/devices.hpp"

namespace qmp {

Task<Result<std::vector<BusDevice>>> info_qtree(Client& client, Deadline deadline) {
    CO_TRY(auto const text, co_await human_monitor_command(client, "info qtree", deadline));
    co_return detail::parse_info_qtree(text);
}

namespace {

/// A bus or a device whose lines are being read.
struct OpenNode {
    std::size_t indent = 0;
    bool is_bus = false;
    int device = -1;  ///< The device itself, or whose bus it is.
    std::string bus = {};
    std::string bus_kind = {};
    unsigned number = 0;  ///< Of a bus.
    std::map<std::string, unsigned> buses = {};  ///< Of a device: how many of each kind so far.
};

/// "\"d0\"" -> "d0", "512 (512 B)" -> "512"
std::string plain_value(std::string const& printed) {
    if (printed.size() >= 2 && printed.front() == '"' && printed.back() == '"')
        return printed.substr(1, printed.size() - 2);
    return printed.substr(0, printed.find(" ("));
}

/// What is between `from` and the next of `ends`; empty: `from` is not in the line.
std::string part_after(std::string const& line, std::string_view from, char const* ends) {
    auto const at = line.find(from);
    if (at == std::string::npos) return {};
    auto const begin = at + from.size();
    return line.substr(begin, line.find_first_of(ends, begin) - begin);
}

/// "class SCSI controller, addr 00:04.0, pci id 1af4:1001 (sub 1af4:0002)",
/// "addr 0.0, port 1.2, speed 12, name QEMU USB Mouse, attached", "bootindex = 1 (0x1)"
void take_line(BusDevice& device, std::string const& line) {
    constexpr std::string_view is = " = ";
    auto const equals = line.find(is);
    if (line.starts_with("class ") && line.find(", pci id ") != std::string::npos) {
        device.pci_class = part_after(line, "class ", ",");
        device.pci_ids = part_after(line, ", pci id ", " ");
        device.pci_subsystem = part_after(line, "(sub ", ")");
    } else if (line.starts_with("addr ") && line.find(", port ") != std::string::npos) {
        device.usb_port = part_after(line, ", port ", ",");
    } else if (equals != std::string::npos) {
        device.properties[line.substr(0, equals)] = plain_value(line.substr(equals + is.size()));
    }
}

class QtreeReader {
public:
    void take(std::string const& line) {
        auto const indent = line.find_first_not_of(' ');
        if (indent == std::string::npos) return;
        while (!open_.empty() && open_.back().indent >= indent) open_.pop_back();
        auto const text = line.substr(indent);
        if (text.starts_with("bus: ")) {
            begin_bus(indent, text.substr(5));
        } else if (text.starts_with("dev: ")) {
            begin_device(indent, text);
        } else if (!open_.empty() && open_.back().is_bus) {
            if (text.starts_with("type ")) take_bus_kind(text.substr(5));
        } else if (!open_.empty()) {
            take_line(devices_[static_cast<std::size_t>(open_.back().device)], text);
        }
    }
    std::vector<BusDevice> devices() && { return std::move(devices_); }

private:
    void begin_bus(std::size_t indent, std::string const& name) {
        OpenNode bus{indent, true, -1, name};
        if (!open_.empty()) bus.device = open_.back().device;
        open_.push_back(std::move(bus));
    }
    void take_bus_kind(std::string const& kind) {
        auto& bus = open_.back();
        bus.bus_kind = kind;
        if (open_.size() >= 2) bus.number = open_[open_.size() - 2].buses[kind]++;
    }
    /// "dev: virtio-blk-pci, id \"disk0\""
    void begin_device(std::size_t indent, std::string const& text) {
        if (open_.empty() || !open_.back().is_bus) return;
        auto const& bus = open_.back();
        devices_.push_back({part_after(text, "dev: ", ","), part_after(text, ", id \"", "\""),
                            bus.device, bus.bus, bus.bus_kind, bus.number});
        open_.push_back({indent, false, static_cast<int>(devices_.size()) - 1});
    }

    std::vector<OpenNode> open_;
    std::vector<BusDevice> devices_;
};

}  // namespace

namespace detail {

std::vector<BusDevice> parse_info_qtree(std::string const& text) {
    QtreeReader reader;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
        reader.take(line);
    }
    return std::move(reader).devices();
}

}  // namespace detail

}  // namespace qmp
