#include "sidecar/cli/options.hpp"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>

#include "sidecar/cli/disk_options.hpp"
#include "sidecar/cli/dns_options.hpp"
#include "sidecar/cli/libvirt_commands.hpp"
#include "sidecar/cli/locate_command.hpp"
#include "sidecar/cli/move_options.hpp"
#include "sidecar/cli/serve_options.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/registry/registry_url.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Result;
using core::TlsConfig;

namespace {

/// --key, --tls-dir and --plaintext: exactly one of them says how the two sidecars
/// authenticate each other.
struct SecurityFlags {
    std::string key;
    std::string tls_directory;
    bool plaintext = false;

    void add_to(CLI::App& app) {
        auto* key_option =
            app.add_option("--key", key, "Pre-shared key: a file of lines NAME:HEXKEY, mode 0600");
        auto* directory_option = app.add_option(
            "--tls-dir", tls_directory,
            "Certificates: a directory with ca-cert.pem, {server,client}-cert.pem and -key.pem");
        auto* plain_option = app.add_flag("--plaintext", plaintext,
                                          "No encryption, no authentication: for a wire you trust");
        key_option->excludes(directory_option)->excludes(plain_option);
        directory_option->excludes(plain_option);
    }
    [[nodiscard]] Result<TlsConfig> chosen() const {
        if (plaintext) return TlsConfig{TlsConfig::Mode::plaintext, ""};
        if (!tls_directory.empty()) return TlsConfig{TlsConfig::Mode::x509, tls_directory};
        if (!key.empty()) return TlsConfig{TlsConfig::Mode::psk, key};
        return fail(Errc::invalid,
                    "choose how the two hosts authenticate each other: --key FILE, --tls-dir DIR, "
                    "or --plaintext");
    }
};

/// RATE: "100M", "12Mi", "1GiB": bytes per second, with decimal (k, M, G) or binary (Ki, Mi, Gi)
/// multiples. Becomes the plain number.
CLI::AsSizeValue rate() { return CLI::AsSizeValue(true); }

/// DURATION: "60s", "60", "5m", "1h". Becomes seconds.
CLI::AsNumberWithUnit duration() {
    return CLI::AsNumberWithUnit(std::map<std::string, int>{{"s", 1}, {"m", 60}, {"h", 3600}},
                                 CLI::AsNumberWithUnit::CASE_SENSITIVE, "s, m or h");
}
CLI::Range seconds_range(std::chrono::seconds min, std::chrono::seconds max) {
    return CLI::Range(static_cast<int>(min.count()), static_cast<int>(max.count()));
}

CLI::Range bandwidth_range() { return CLI::Range(std::int64_t{0}, limits::bandwidth_max); }
CLI::Range converge_limit_range() {
    return seconds_range(limits::converge_limit_min, limits::converge_limit_max);
}
CLI::Range downtime_limit_range() {
    return CLI::Range(limits::downtime_limit_min_ms, limits::downtime_limit_max_ms);
}

/// The value of one setting of `set`, checked like an option with the same validators.
template <class Value>
Result<Value> setting_value(std::string const& name, std::string text,
                            std::vector<CLI::Validator> const& validators) {
    std::string why = text.empty() ? "it has no value" : "";
    try {
        for (auto const& validator : validators) {
            if (why.empty()) why = validator(text);
        }
    } catch (CLI::ValidationError const& error) {
        why = error.what();
    }
    Value value{};
    if (why.empty() && !CLI::detail::lexical_cast(text, value)) why = "not a number: " + text;
    if (why.empty()) return value;
    return fail(Errc::invalid, "{}: {}", name, why);
}

/// All values that CLI11 fills in, and their conversion into Options.
struct Parser {
    CLI::App app{
        "Moves running virtual machines between hosts that share nothing: RAM, disks and "
        "addresses.",
        "sidecar"};
    Options options;
    SecurityFlags serve_security;
    SecurityFlags migrate_security;
    SecurityFlags replicate_security;
    DnsFlags migrate_dns;
    DiskFlags migrate_disks;
    MoveFlags migrate_move;
    DnsFlags failover_dns;
    ServeFlags serve_flags;
    bool no_freeze = false;
    std::string throttle = "auto";
    std::string held_tap;
    std::string progress;
    std::vector<std::string> settings;
    ProbeFlags probe_flags;
    HomeAgentFlags home_agent_flags;
    CLI::App *run, *attach, *serve, *incoming, *watchdog, *holder, *migrate, *replicate, *failover,
        *status, *set, *cancel, *resolve, *locate, *network, *anchor, *check, *probe, *home_agent;
    NetworkFlags network_flags;
    LibvirtCommands libvirt_commands;
    AnchorFlags anchor_flags;

    Parser() {
        options.paths = Paths::defaults();
        app.require_subcommand(1);
        app.set_version_flag("--version", "sidecar 0.1.0");
        app.fallthrough();
        app.add_option("--run-dir", options.paths.run_directory,
                       "Sockets and keys [env SIDECAR_RUN_DIR]")
            ->capture_default_str();
        app.add_option("--state-dir", options.paths.state_directory,
                       "Journals; must survive a reboot [env SIDECAR_STATE_DIR]")
            ->capture_default_str();
        app.add_flag("-v,--verbose", options.verbose, "Log every step on stderr");
        add_guest_commands();
        add_serve();
        add_migrate();
        add_replicate();
        add_others();
    }

    void add_registry(CLI::App& command) {
        command.add_option("--registry", options.paths.registry,
                           "Where the hosts record who has which guest: file:DIR, "
                           "etcd://HOST[:PORT][,...] or etcds://... [env SIDECAR_REGISTRY]");
    }

    CLI::App* with_guest(char const* name, char const* help) {
        auto* command = app.add_subcommand(name, help);
        command->add_option("GUEST", options.guest, "The guest's name")->required();
        return command;
    }

    void add_guest_commands() {
        run = with_guest("run", "Start QEMU with a sidecar; runs until QEMU ends");
        auto* bridge =
            run->add_option("--bridge", options.run.bridge, "Put the guest's taps on this bridge");
        run->add_flag("--routed", options.run.routed,
                      "Route to the guest's tap: this host is its gateway; needs --address")
            ->excludes(bridge);
        run->add_option("--address", options.run.addresses,
                        "An address of the guest; by default they are learned from its traffic")
            ->allow_extra_args(false);
        run->add_flag("--new-guest", options.run.new_guest,
                      "The guest of this name moved away, and the name is used for another one");
        add_registry(*run);
        run->add_flag("--i-have-fenced", options.fenced,
                      "The host that has the guest, as the registry says, cannot run it any more");
        run->footer(
            "After `--`: QEMU's command line, as `sidecar run web1 -- qemu-system-x86_64 -m 512 "
            "...`");
        attach = with_guest("attach", "Join a QEMU that is already running; runs until QEMU ends");
        attach->add_option("--qmp", options.attach.qmp_socket,
                           "QEMU's QMP socket (default: what was recorded)");
        attach->add_flag("--libvirt", options.attach.libvirt,
                         "The guest is the domain of this name in libvirt");
        attach->add_option("--libvirt-uri", options.attach.libvirt_uri, "Where libvirt is")
            ->capture_default_str();
        attach->add_option("--address", options.attach.addresses, "An address of the guest")
            ->allow_extra_args(false);
        add_registry(*attach);
        attach->add_flag("--i-have-fenced", options.fenced, "As for `run`");
    }

    void add_serve() {
        serve =
            app.add_subcommand("serve", "Accept guests from other hosts; runs until it is ended");
        add_serve_options(*serve);
        serve->add_option("--listen", options.serve.listen, "HOST[:PORT] to listen on; port 4790")
            ->capture_default_str();
        serve
            ->add_option("--tunnel-port", options.serve.tunnel_port,
                         "UDP port of the tunnels of anchors")
            ->check(CLI::Range(1, 65535))
            ->capture_default_str();
        holder = app.add_subcommand("anchor-holder", "");
        holder->add_option("TAP", held_tap, "");  // for people who list processes
        holder->group("");  // hidden: `serve` starts it
        incoming = with_guest("incoming", "");
        add_serve_options(*incoming);
        incoming->add_option("--ready-fd", options.ready_fd, "");
        incoming->group("");  // hidden: `serve` starts it
        watchdog = with_guest("watchdog", "");
        watchdog->add_option("--qmp", options.attach.qmp_socket, "");
        watchdog->add_option("--ready-fd", options.ready_fd, "");
        watchdog->group("");  // hidden: a guest's sidecar starts it
        libvirt_commands.add_to(app, options);
    }

    void add_serve_options(CLI::App& command) {
        serve_security.add_to(command);
        serve_flags.add_to(command);
        add_registry(command);
    }

    void add_migrate() {
        migrate = with_guest("migrate", "Move a guest to another host");
        auto& chosen = options.migrate;
        migrate->add_option("DESTINATION", chosen.destination, "HOST[:PORT] of a `sidecar serve`");
        migrate->add_flag("--with-storage", chosen.with_storage,
                          "Copy the disks that DESTINATION does not see");
        migrate->add_flag("--no-copy", chosen.no_copy,
                          "Copy no file that the guest only reads: all are at the destination");
        migrate_security.add_to(*migrate);
        migrate->add_flag("--check", chosen.check_only,
                          "Run every check on both hosts, change nothing, and end");
        migrate->add_flag(
            "--resume", chosen.resume,
            "Continue a suspended copy, or follow the migration that `sidecar attach` found");
        migrate->add_flag("--verify", chosen.verify,
                          "Read the disks again on both hosts before the guest leaves");
        migrate
            ->add_option("--base", chosen.bases,
                         "A backing file that the destination has too: it is compared, not sent")
            ->allow_extra_args(false);
        migrate_disks.add_to(*migrate);
        migrate
            ->add_option("--vtep", chosen.vteps,
                         "HOST[:PORT] of a `sidecar serve`: another host of the guest's VXLAN, "
                         "which then sends to the destination")
            ->allow_extra_args(false);
        migrate_move.add_to(*migrate);
        migrate
            ->add_option("--downtime-limit", chosen.downtime_limit_ms,
                         "Milliseconds that the guest may be stopped; a longer pause is undone")
            ->check(downtime_limit_range())
            ->capture_default_str();
        migrate
            ->add_option("--converge-limit", chosen.converge_limit_s,
                         "How long RAM may take to converge: seconds, or 10m, 1h")
            ->transform(duration())
            ->check(converge_limit_range())
            ->capture_default_str();
        migrate
            ->add_option("--link-timeout", chosen.link_timeout_s,
                         "Seconds to wait for an unreachable destination; then the copy is "
                         "suspended until --resume")
            ->check(CLI::Range(limits::link_timeout_min_s, limits::link_timeout_most_s))
            ->capture_default_str();
        migrate
            ->add_option("--bandwidth", chosen.bandwidth,
                         "Limit for disks and RAM together, bytes per second (100M); 0: none")
            ->transform(rate())
            ->check(bandwidth_range());
        migrate
            ->add_option("--throttle", throttle,
                         "Slow down a guest that writes faster than its disks or RAM can be "
                         "copied: auto or never")
            ->check(CLI::IsMember({"auto", "never"}))
            ->capture_default_str();
        migrate
            ->add_option("--progress", progress,
                         "bar, json (one object a line) or none; default: bar on a terminal")
            ->check(CLI::IsMember({"bar", "json", "none"}));
        migrate_dns.add_to(*migrate);
        migrate->add_flag("--json", options.json, "Print the report as one JSON object at the end");
        migrate->add_option("--report", options.report_file, "Write the full report to FILE");
    }

    void add_replicate() {
        replicate =
            with_guest("replicate", "Keep a copy of a guest's disks up to date on another host");
        replicate->add_option("DESTINATION", options.replicate.destination,
                              "HOST[:PORT] of a `sidecar serve`");
        replicate_security.add_to(*replicate);
        auto* interval = replicate->add_option(
            "--every", options.replicate.every_s,
            "From the start of a round to the start of the next: seconds, or 5m, 1h");
        interval->transform(duration())
            ->check(seconds_range(limits::replicate_every_min, limits::replicate_every_max))
            ->capture_default_str();
        auto* agent =
            replicate->add_option("--guest-agent", options.replicate.guest_agent,
                                  "Socket of the guest agent (default: as in QEMU's command line)");
        replicate
            ->add_flag("--no-freeze", no_freeze,
                       "Do not freeze the guest's file systems: points are crash-consistent")
            ->excludes(agent);
        auto* once = replicate->add_flag("--once", options.replicate.once,
                                         "One round, also of a guest that is off; then end");
        once->excludes(interval);
        replicate
            ->add_flag("--hand-over", options.replicate.hand_over,
                       "With --once: a guest that is off then belongs to DESTINATION, and its "
                       "images here are set aside")
            ->needs(once);
        replicate
            ->add_option("--bandwidth", options.replicate.bandwidth,
                         "Limit, bytes per second (100M); 0: none")
            ->transform(rate())
            ->check(bandwidth_range());
        auto* stop = replicate->add_flag("--stop", options.replicate_stop,
                                         "End the replication; the copy at the destination stays");
        replicate
            ->add_flag("--forget", options.replicate_forget,
                       "With --stop: remove the copy at the destination as well")
            ->needs(stop);
        failover = with_guest(
            "failover",
            "Start a guest here from the last point of its copy; runs until QEMU ends, as `run`");
        failover->add_flag("--i-have-fenced", options.fenced,
                           "The guest's old host is off or cannot run the guest");
        failover->add_flag("--previous", options.previous, "From the point before the last");
        failover_dns.add_to(*failover);
        add_registry(*failover);
    }

    void add_others() {
        status =
            app.add_subcommand("status", "Show the guests of this host and what they are doing");
        status->add_option("GUEST", options.guest, "Only this one");
        status->add_flag("--json", options.json, "As JSON");
        set = with_guest("set", "Change a migration that is under way");
        set->add_option("SETTING", settings,
                        "bandwidth=RATE, downtime-limit=MS, converge-limit=DURATION")
            ->required();
        cancel = with_guest("cancel", "Cancel the migration of a guest; it stays where it is");
        resolve = with_guest(
            "resolve", "Decide a migration that is in doubt, after the other host was fenced");
        resolve->add_option("--to", options.resolve_to, "Who owns the guest: source or destination")
            ->required()
            ->check(CLI::IsMember({"source", "destination"}));
        resolve->add_flag("--i-have-fenced", options.fenced,
                          "The other side is off or cannot run the guest");
        locate = with_guest("locate", "Say which host has a guest, and since when");
        add_locate_options(*locate, options);
        add_registry(*locate);
        network = app.add_subcommand("network", "Networks of one protocol, native and parallel");
        network_flags.add_to(*network);
        anchor = app.add_subcommand("anchor", "Guests that left their home network behind");
        anchor_flags.add_to(*anchor);
        check = app.add_subcommand("check",
                                   "Check what this host offers: io_uring, QEMU, taps, netlink");
        check->add_flag("--json", options.json, "As JSON");
        probe =
            app.add_subcommand("probe", "Measure how a client reaches the addresses of a guest");
        probe_flags.add_to(*probe);
        home_agent = app.add_subcommand(
            "home-agent",
            "Be the home agent of Mobile IPv6 on this router; runs until it is ended");
        home_agent_flags.add_to(*home_agent);
    }

    Result<> finish();
    Result<> check_registry() const;
    Result<> finish_migrate();
    Result<> finish_replicate();
    Result<> read_settings();
};

Result<> Parser::read_settings() {
    for (auto const& setting : settings) {
        auto const equals = setting.find('=');
        auto const name = setting.substr(0, equals);
        auto const value = equals == std::string::npos ? "" : setting.substr(equals + 1);
        auto& changes = options.changes;
        if (name == "bandwidth") {
            TRY(changes.bandwidth,
                setting_value<std::uint64_t>(name, value, {rate(), bandwidth_range()}));
        } else if (name == "downtime-limit") {
            TRY(changes.downtime_limit_ms,
                setting_value<int>(name, value, {downtime_limit_range()}));
        } else if (name == "converge-limit") {
            TRY(changes.converge_limit_s,
                setting_value<int>(name, value, {duration(), converge_limit_range()}));
        } else {
            return fail(Errc::invalid,
                        "`{}` cannot be set: write bandwidth=RATE, downtime-limit=MS or "
                        "converge-limit=DURATION",
                        setting);
        }
    }
    return {};
}

Result<> Parser::finish_migrate() {
    auto& chosen = options.migrate;
    bool const bar = progress.empty() ? isatty(STDERR_FILENO) != 0 : progress == "bar";
    options.progress = progress == "json" ? ProgressStyle::json
                       : bar              ? ProgressStyle::bar
                                          : ProgressStyle::none;
    if (chosen.resume) {
        if (chosen.destination.empty() && !chosen.check_only) return {};
        return fail(Errc::invalid,
                    "`migrate --resume {}` takes no destination: it is the recorded one",
                    options.guest);
    }
    if (chosen.destination.empty()) {
        return fail(Errc::invalid,
                    "`migrate` needs a DESTINATION: HOST[:PORT] of a `sidecar serve`");
    }
    // The guest's sidecar looks for them, and has another working directory.
    for (auto& base : chosen.bases) base = std::filesystem::absolute(base).string();
    if (chosen.vteps.size() > limits::vteps_max) {
        return fail(Errc::invalid, "{} VTEPs are too many: the limit is {}", chosen.vteps.size(),
                    limits::vteps_max);
    }
    TRY(chosen.tls, migrate_security.chosen());
    TRY(chosen.dns, migrate_dns.finish());
    TRY(chosen.disks, migrate_disks.finish());
    TRY_VOID(migrate_move.finish(chosen));
    chosen.throttle = throttle == "auto";
    return {};
}

Result<> Parser::finish_replicate() {
    auto& chosen = options.replicate;
    if (options.replicate_stop) return {};
    if (chosen.destination.empty()) {
        return fail(Errc::invalid,
                    "`replicate` needs a DESTINATION: HOST[:PORT] of a `sidecar serve`, or --stop");
    }
    TRY(chosen.tls, replicate_security.chosen());
    chosen.freeze = !no_freeze;
    // The guest's sidecar connects to it, and has another working directory.
    if (!chosen.guest_agent.empty()) {
        chosen.guest_agent = std::filesystem::absolute(chosen.guest_agent).string();
    }
    return {};
}

/// Of a command that uses it: the environment variable may be set for others.
Result<> Parser::check_registry() const {
    auto const& url = options.paths.registry;
    for (auto const* command : {run, attach, serve, incoming, failover, locate}) {
        if (command->parsed() && !url.empty()) TRY_VOID(registry::RegistryUrl::parse(url));
    }
    if (options.locate_repair && url.empty())
        return fail(Errc::invalid, "`locate --repair` needs --registry");
    return {};
}

Result<> Parser::finish() {
    using Command = Options::Command;
    std::pair<CLI::App*, Command> const commands[] = {
        {run, Command::run},
        {attach, Command::attach},
        {serve, Command::serve},
        {incoming, Command::incoming},
        {watchdog, Command::watchdog},
        {holder, Command::anchor_holder},
        {libvirt_commands.monitor, Command::libvirt_monitor},
        {libvirt_commands.definition, Command::libvirt_definition},
        {libvirt_commands.hook, Command::libvirt_hook},
        {migrate, Command::migrate},
        {replicate, Command::replicate},
        {failover, Command::failover},
        {status, Command::status},
        {set, Command::set},
        {cancel, Command::cancel},
        {resolve, Command::resolve},
        {locate, Command::locate},
        {network, Command::network},
        {anchor, Command::anchor},
        {check, Command::check},
        {probe, Command::probe},
        {home_agent, Command::home_agent}};
    for (auto const& [app_command, command] : commands) {
        if (app_command->parsed()) options.command = command;
    }
    if (!options.guest.empty()) TRY_VOID(check_guest_name(options.guest));
    options.libvirt_monitor.guest = options.libvirt_definition.guest = options.guest;
    TRY_VOID(check_registry());
    if (options.command == Command::run && options.run.qemu.empty()) {
        return fail(
            Errc::invalid,
            "`run` needs QEMU's command line after `--`: sidecar run {} -- qemu-system-x86_64 ...",
            options.guest);
    }
    if (options.run.routed && options.run.addresses.empty()) {
        return fail(Errc::invalid,
                    "`run --routed` needs the guest's addresses: --address, once for each");
    }
    if (options.command != Command::run && !options.run.qemu.empty()) {
        return fail(Errc::invalid, "`--` and a command line are only for `sidecar run`");
    }
    if (options.command == Command::set) TRY_VOID(read_settings());
    if (options.command == Command::network) {
        TRY(options.network, network_flags.finish());
    }
    if (options.command == Command::anchor) {
        TRY(options.anchor, anchor_flags.finish());
    }
    if (options.command == Command::serve || options.command == Command::incoming) {
        TRY(options.serve.tls, serve_security.chosen());
        TRY_VOID(serve_flags.finish(options.serve));
    }
    if (options.command == Command::migrate) TRY_VOID(finish_migrate());
    if (options.command == Command::failover) {
        TRY(options.dns, failover_dns.finish());
    }
    if (options.command == Command::replicate) TRY_VOID(finish_replicate());
    if (options.command == Command::home_agent) {
        TRY(options.home_agent, home_agent_flags.finish());
    }
    if (options.command == Command::probe) {
        TRY(options.probe, probe_flags.finish());
    }
    return {};
}

}  // namespace

std::variant<Options, int> parse_options(int argc, char** argv) {
    Parser parser;
    // Everything after `--` belongs to QEMU and is not changed.
    auto* const end = std::find_if(argv, argv + argc,
                                   [](char const* word) { return std::string_view(word) == "--"; });
    if (end != argv + argc) parser.options.run.qemu.assign(end + 1, argv + argc);
    try {
        parser.app.parse(static_cast<int>(end - argv), argv);
    } catch (CLI::ParseError const& error) {
        if (error.get_exit_code() == 0) return parser.app.exit(error);
        fmt::print(stderr, "error: {}\nTry `sidecar --help`, or `sidecar COMMAND --help`.\n",
                   error.what());
        return 2;
    }
    if (auto finished = parser.finish(); !finished) {
        fmt::print(stderr, "error: {}\n", finished.error().sentence());
        return 2;
    }
    return std::move(parser.options);
}

}  // namespace sidecar
