// Commands: one small function each, found by name in a table.
#include "control.hpp"

#include "errors.hpp"

#include <json-c/json.h>
#include <linux/reboot.h>
#include <sys/reboot.h>
#include <unistd.h>
#include <array>
#include <cinttypes>
#include <csignal>
#include <span>

namespace witness {
namespace {

/// A JSON object being built, owned by json-c until text() returns it.
class Object {
public:
    Object() : object_(json_object_new_object()) {}
    ~Object() { json_object_put(object_); }
    Object(const Object&) = delete;
    Object& operator=(const Object&) = delete;

    Object& number(const char* key, std::uint64_t value) {
        json_object_object_add(object_, key, json_object_new_uint64(value));
        return *this;
    }
    Object& string(const char* key, const std::string& value) {
        json_object_object_add(object_, key, json_object_new_string(value.c_str()));
        return *this;
    }
    Object& boolean(const char* key, bool value) {
        json_object_object_add(object_, key, json_object_new_boolean(value));
        return *this;
    }
    Object& object(const char* key, const Object& value) {
        json_object_object_add(object_, key, json_object_get(value.object_));
        return *this;
    }
    Object& array(const char* key, std::span<const std::unique_ptr<Object>> values) {
        json_object* array = json_object_new_array();
        for (const auto& value : values)
            json_object_array_add(array, json_object_get(value->object_));
        json_object_object_add(object_, key, array);
        return *this;
    }
    std::string text() const {
        return json_object_to_json_string_ext(
            object_, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
    }

private:
    json_object* object_;
};

/// The request: named numbers and strings.
class Arguments {
public:
    explicit Arguments(json_object* object) : object_(object) {}
    std::string string(const char* key) const {
        json_object* value = nullptr;
        if (!json_object_object_get_ex(object_, key, &value)) return {};
        return json_object_get_string(value);
    }
    std::uint64_t number(const char* key, std::uint64_t otherwise) const {
        json_object* value = nullptr;
        if (!json_object_object_get_ex(object_, key, &value)) return otherwise;
        return json_object_get_uint64(value);
    }
    /// The first key that needs a number and has something else; empty if there is none.
    std::string bad_number() const {
        for (const char* key :
             {"rate", "read_rate", "ram_rate", "tcp_rate", "offset", "length", "seed"}) {
            json_object* value = nullptr;
            if (json_object_object_get_ex(object_, key, &value) == 0) continue;
            if (!json_object_is_type(value, json_type_int) || json_object_get_int64(value) < 0)
                return key;
        }
        return {};
    }
    bool has(const char* key) const {
        return json_object_object_get_ex(object_, key, nullptr) != 0;
    }

private:
    json_object* object_;
};

void add_latency(Object& to, const std::string& prefix, const Histogram& histogram) {
    to.number((prefix + "_p50_us").c_str(), histogram.quantile_us(500));
    to.number((prefix + "_p99_us").c_str(), histogram.quantile_us(990));
    to.number((prefix + "_max_us").c_str(), histogram.max_us());
    to.number((prefix + "_count").c_str(), histogram.count());
}

void report_disk(Object& to, const Disk& disk) {
    to.string("name", disk.name())
        .number("bytes", disk.bytes())
        .number("span_blocks", disk.span_blocks());
    to.number("rate", disk.rate).number("writes", disk.writes).number("flushes", disk.flushes);
    to.number("reads_checked", disk.reads_checked);
    add_latency(to, "write", disk.write_latency);
    add_latency(to, "flush", disk.flush_latency);
}

void report_traffic(Object& to, const Traffic& traffic) {
    to.number("udp_echoed", traffic.udp_echoed);
    to.number("tcp_accepted", traffic.tcp_accepted).number("tcp_open", traffic.tcp_open);
    to.number("tcp_failed", traffic.tcp_failed);
    to.number("tcp_received_bytes", traffic.tcp_received_bytes);
    to.number("tcp_sent_bytes", traffic.tcp_sent_bytes);
}

void report(Parts& parts, const Arguments&, Object& answer) {
    answer.number("uptime_ms", now_ns() / ns_per_ms).number("errors", errors().total());
    Object kinds;
    for (std::size_t i = 0; i < static_cast<std::size_t>(Kind::count_); ++i)
        kinds.number(name_of(static_cast<Kind>(i)), errors().of(static_cast<Kind>(i)));
    answer.object("errors_by_kind", kinds);
    answer.string("first_error", errors().first()).string("last_error", errors().last());
    Object ram;
    ram.number("pages", parts.ram->pages()).number("rate", parts.ram->pages_per_s);
    ram.number("pages_checked", parts.ram->pages_checked);
    answer.object("ram", ram);
    std::vector<std::unique_ptr<Object>> disks;
    for (const auto& disk : parts.disks)
        report_disk(*disks.emplace_back(std::make_unique<Object>()), *disk);
    answer.array("disks", disks);
    answer.number("file_writes", parts.file_system ? parts.file_system->writes.load() : 0);
    Object ipv4;
    Object ipv6;
    report_traffic(ipv4, parts.services->traffic[0]);
    report_traffic(ipv6, parts.services->traffic[1]);
    answer.object("ipv4", ipv4).object("ipv6", ipv6);
}

void refuse(Object& answer, const std::string& why) {
    answer.boolean("ok", false).string("error", why);
}

// The disks that "disk" names; without it, all disks. Empty, and refused, if there is none.
std::vector<Disk*> chosen(Parts& parts, const Arguments& arguments, Object& answer) {
    std::vector<Disk*> disks;
    for (const auto& disk : parts.disks)
        if (!arguments.has("disk") || disk->name() == arguments.string("disk"))
            disks.push_back(disk.get());
    if (disks.empty() && arguments.has("disk"))
        refuse(answer, "no disk \"" + arguments.string("disk") + "\" on the kernel command line");
    return disks;
}

void verify(Parts& parts, const Arguments& arguments, Object& answer) {
    std::uint64_t wrong = 0;
    std::vector<std::unique_ptr<Object>> disks;
    for (Disk* disk : chosen(parts, arguments, answer)) {
        const Disk::Verified verified = disk->verify();
        wrong += verified.wrong;
        Object& one = *disks.emplace_back(std::make_unique<Object>());
        one.string("name", disk->name()).number("blocks", verified.blocks);
        one.number("written", verified.written).number("wrong", verified.wrong);
    }
    answer.array("disks", disks);
    if (!arguments.has("disk")) {
        const std::uint64_t pages = parts.ram->verify();
        wrong += pages;
        answer.number("ram_pages", parts.ram->pages()).number("ram_wrong", pages);
    }
    answer.number("wrong", wrong).number("errors", errors().total());
    answer.string("first_error", errors().first());
}

void set_rate(Parts& parts, const Arguments& arguments, Object& answer) {
    for (Disk* disk : chosen(parts, arguments, answer)) {
        disk->rate = arguments.number("rate", disk->rate);
        disk->read_rate = arguments.number("read_rate", disk->read_rate);
    }
    parts.ram->pages_per_s = arguments.number("ram_rate", parts.ram->pages_per_s);
    parts.services->source_rate = arguments.number("tcp_rate", parts.services->source_rate);
}

void reset_latency(Parts& parts, const Arguments& arguments, Object& answer) {
    for (Disk* disk : chosen(parts, arguments, answer)) {
        disk->write_latency.reset();
        disk->flush_latency.reset();
    }
}

void freeze(Parts& parts, const Arguments& arguments, Object& answer) {
    for (Disk* disk : chosen(parts, arguments, answer)) disk->freeze();
}

void thaw(Parts& parts, const Arguments& arguments, Object& answer) {
    for (Disk* disk : chosen(parts, arguments, answer)) disk->thaw();
}

void change(Parts& parts, const Arguments& arguments, Object& answer, bool fill) {
    if (!arguments.has("disk") || !arguments.has("offset") || !arguments.has("length"))
        return refuse(answer, "disk, offset and length are needed");
    const std::uint64_t offset = arguments.number("offset", 0);
    const std::uint64_t length = arguments.number("length", 0);
    for (Disk* disk : chosen(parts, arguments, answer)) {
        const std::string failure = fill ? disk->fill(offset, length, arguments.number("seed", 0))
                                         : disk->discard(offset, length);
        if (!failure.empty()) refuse(answer, failure);
    }
}

void fill(Parts& parts, const Arguments& arguments, Object& answer) {
    change(parts, arguments, answer, true);
}

void discard(Parts& parts, const Arguments& arguments, Object& answer) {
    change(parts, arguments, answer, false);
}

void stop_agent(Parts& parts, const Arguments&, Object& answer) {
    const std::string failure = parts.agent.signal(SIGSTOP);
    if (!failure.empty()) refuse(answer, failure);
}

void continue_agent(Parts& parts, const Arguments&, Object& answer) {
    const std::string failure = parts.agent.signal(SIGCONT);
    if (!failure.empty()) refuse(answer, failure);
}

void seal(Parts& parts, const Arguments& arguments, Object& answer) {
    const std::string failure = parts.tpm.seal(arguments.string("text"));
    if (!failure.empty()) refuse(answer, failure);
}

void unseal(Parts& parts, const Arguments&, Object& answer) {
    const Tpm::Unsealed found = parts.tpm.unseal();
    answer.string("text", found.text).boolean("same_pcr", found.same_pcr);
    if (!found.failure.empty()) refuse(answer, found.failure);
}

void power_off(Parts&, const Arguments&, Object& answer) {
    sync();
    reboot(LINUX_REBOOT_CMD_POWER_OFF);
    refuse(answer, "the machine did not go off");
}

struct Command {
    const char* name;
    void (*run)(Parts&, const Arguments&, Object&);
};

constexpr std::array commands{
    Command{"report", report},
    Command{"verify", verify},
    Command{"rate", set_rate},
    Command{"reset-latency", reset_latency},
    Command{"freeze", freeze},
    Command{"thaw", thaw},
    Command{"fill", fill},
    Command{"discard", discard},
    Command{"poweroff", power_off},
    Command{"agent-stop", stop_agent},
    Command{"agent-continue", continue_agent},
    Command{"tpm-seal", seal},
    Command{"tpm-unseal", unseal},
};

} // namespace

std::string answer(Parts& parts, std::string_view line) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.remove_suffix(1);
    std::string text(line);
    if (!text.starts_with("{")) text = "{\"cmd\":\"" + text + "\"}";
    json_object* parsed = json_tokener_parse(text.c_str());
    Object answer;
    answer.boolean("ok", true);
    const std::string name = parsed == nullptr ? "" : Arguments(parsed).string("cmd");
    const Command* found = nullptr;
    for (const Command& command : commands)
        if (name == command.name) found = &command;
    const std::string bad = parsed == nullptr ? "" : Arguments(parsed).bad_number();
    if (found != nullptr && !bad.empty()) {
        refuse(answer, "\"" + bad + "\" must be a whole number");
    } else if (found != nullptr) {
        answer.string("cmd", name);
        found->run(parts, Arguments(parsed), answer);
    } else {
        refuse(answer, parsed == nullptr ? "not a JSON object" : "no command \"" + name + "\"");
    }
    json_object_put(parsed);
    return answer.text();
}

std::string alive_line(const Parts& parts, std::uint64_t count) {
    Object line;
    line.number("alive", count).number("uptime_ms", now_ns() / ns_per_ms);
    line.number("errors", errors().total());
    std::uint64_t writes = 0;
    for (const auto& disk : parts.disks) writes += disk->writes;
    line.number("disk_writes", writes).number("ram_pages_checked", parts.ram->pages_checked);
    if (errors().total() != 0) line.string("first_error", errors().first());
    return line.text();
}

} // namespace witness
