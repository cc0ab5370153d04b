// docs/man/sidecar.1 against the program: the page has every command and option that `--help`
// names, under its own command, and no others.
#include <regex>
#include <set>

#include <catch2/catch.hpp>

#include "tests/support/command.hpp"
#include "tests/support/lab.hpp"

namespace sidecar_manual_cases {

namespace {

using Names = std::set<std::string>;

/// What the first group of `pattern` matches in `text`.
Names found(std::string const& text, char const* pattern) {
    Names names;
    std::regex const regex(pattern);
    for (std::sregex_iterator at(text.begin(), text.end(), regex), end; at != end; ++at) {
        names.insert((*at)[1]);
    }
    return names;
}

std::string help(lab::Argv argv) {
    argv.insert(argv.begin(), lab::program("sidecar"));
    argv.emplace_back("--help");
    return lab::must_run(argv);
}

/// The page without font changes and escapes.
std::string page() {
    auto text = lab::read_file(lab::fs::path(LAB_SOURCE_DIRECTORY) / "docs/man/sidecar.1");
    text = std::regex_replace(text, std::regex(R"(\\f[BIR])"), "");
    return std::regex_replace(text, std::regex(R"(\\-)"), "-");
}

/// The text from the line `heading` to the next section or subsection; empty when there is none.
std::string part(std::string const& text, std::string const& heading) {
    auto const begin = text.find("\n" + heading + "\n");
    if (begin == std::string::npos) return {};
    auto const end = text.find("\n.S", begin + heading.size() + 1);
    return text.substr(begin, end - begin);
}

/// Options that head an entry (after .TP).
Names described(std::string const& text) {
    Names names;
    for (auto const& line : found(text, R"(\n\.TP\n([^\n]*))"))
        names.merge(found(line, R"((?:^|[^a-z0-9])(--?[a-z][a-z0-9-]*))"));
    return names;
}

Names offered(std::string const& help_text) {
    return found(help_text, R"((?:^|\n) +(?:-[a-z],)?(--[a-z0-9-]+))");
}

Names without_help(Names names) {
    for (auto const* every : {"-h", "--help"}) names.erase(every);
    return names;
}

/// Commands as `--help` lists them.
Names listed_commands(std::string const& help_text) {
    auto const at = help_text.find("Subcommands:");
    return at == std::string::npos ? Names() : found(help_text.substr(at), R"(\n  ([a-z-]+) )");
}

/// The subcommands of a command. The synopsis names each of them too.
Names inner_commands(std::string const& command) {
    auto const inner = listed_commands(help({command}));
    auto const synopsis = part(page(), ".SH SYNOPSIS");
    for (auto const& one : inner) {
        INFO(command << " " << one);
        CHECK(synopsis.find(one) != std::string::npos);
    }
    return inner;
}

}  // namespace

TEST_CASE("manual: every command and option of --help, and no other") {
    auto const text = page();
    REQUIRE_FALSE(text.empty());
    auto const whole = help({});
    auto const commands = listed_commands(whole);
    REQUIRE(commands.size() >= 8);
    auto const synopsis = part(text, ".SH SYNOPSIS");
    for (auto const& command : commands) {
        INFO(command);
        CHECK(synopsis.find("sidecar " + command) != std::string::npos);
        auto options = offered(help({command}));
        for (auto const& inner : inner_commands(command))
            options.merge(offered(help({command, inner})));
        CHECK(described(part(text, ".SS " + command)) == without_help(options));
    }
    auto of_all = described(part(text, ".SH OPTIONS OF ALL COMMANDS"));
    for (auto const* letter : {"-h", "-v"}) CHECK(of_all.erase(letter) == 1);
    CHECK(of_all == offered(whole));
    CHECK(found(text, R"(\n\.SS ([a-z-]+)\n)") == commands);
}

}  // namespace sidecar_manual_cases
