#include "sidecar/libvirt/domain_xml.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace sidecar::libvirt {

using core::Errc;
using core::fail;
using core::Result;

namespace {

constexpr std::size_t elements_deep_max = 32;  // libvirt's own reach 8

/// The five entities of XML.
constexpr auto entities = std::to_array<std::pair<std::string_view, char>>(
    {{"&lt;", '<'}, {"&gt;", '>'}, {"&amp;", '&'}, {"&quot;", '"'}, {"&apos;", '\''}});

bool is_space(char one) { return one == ' ' || one == '\n' || one == '\t' || one == '\r'; }

bool is_name_part(char one) {
    bool const letter = (one >= 'a' && one <= 'z') || (one >= 'A' && one <= 'Z');
    bool const digit = one >= '0' && one <= '9';
    return letter || digit || one == '_' || one == '-' || one == '.' || one == ':';
}

/// The length of the entity at the beginning of `text`; 0: there is none that is known.
std::size_t entity_length(std::string_view text) {
    auto const known = std::ranges::find_if(
        entities, [&](auto const& entity) { return text.starts_with(entity.first); });
    return known == entities.end() ? 0 : known->first.size();
}

std::string unescaped(std::string_view text) {
    std::string plain;
    while (!text.empty()) {
        auto const known = std::ranges::find_if(
            entities, [&](auto const& entity) { return text.starts_with(entity.first); });
        bool const is_entity = known != entities.end();
        plain += is_entity ? known->second : text.front();
        text.remove_prefix(is_entity ? known->first.size() : 1);
    }
    return plain;
}

std::string escaped(std::string_view plain) {
    std::string text;
    for (char const one : plain) {
        auto const known =
            std::ranges::find(entities, one, &std::pair<std::string_view, char>::second);
        if (known != entities.end()) {
            text += known->first;
        } else {
            text += one;
        }
    }
    return text;
}

}  // namespace

/// Reads one definition from the beginning to the end.
class DomainXmlReader {
public:
    explicit DomainXmlReader(std::string text) { xml_.text_ = std::move(text); }

    Result<DomainXml> read() &&;

private:
    [[nodiscard]] std::string_view rest() const { return std::string_view(xml_.text_).substr(at_); }
    [[nodiscard]] auto wrong(std::string_view what) const {
        return fail(Errc::invalid,
                    "the definition of a domain is not one that libvirt prints: {} at "
                    "byte {}",
                    what, at_);
    }
    [[nodiscard]] std::string path() const {
        std::string all;
        for (auto const& one : open_) all += (all.empty() ? "" : "/") + one;
        return all;
    }
    void skip_space() {
        while (!rest().empty() && is_space(rest().front())) ++at_;
    }
    bool take(std::string_view word) {
        if (!rest().starts_with(word)) return false;
        at_ += word.size();
        return true;
    }
    Result<std::string> take_name();
    Result<> take_start();
    Result<> take_attribute();
    Result<> take_end();
    Result<> take_text();
    /// Passes one character or entity of text; `stop` ends it.
    Result<> take_character();

    DomainXml xml_;
    std::size_t at_ = 0;
    std::vector<std::string> open_;
    bool is_over_ = false;  ///< The root has ended.
};

Result<DomainXml> DomainXmlReader::read() && {
    if (xml_.text_.size() > domain_xml_bytes_max)
        return fail(Errc::invalid, "the definition of a domain is longer than {} KiB",
                    domain_xml_bytes_max / 1024);
    skip_space();
    if (!rest().starts_with("<domain")) return wrong("no domain");
    while (!rest().empty()) {
        if (is_over_) {
            skip_space();
            if (!rest().empty()) return wrong("more after the domain");
        } else if (rest().starts_with("</")) {
            TRY_VOID(take_end());
        } else if (rest().front() == '<') {
            TRY_VOID(take_start());
        } else {
            TRY_VOID(take_text());
        }
    }
    if (!is_over_) return wrong("no end of the domain");
    if (xml_.name_.empty() || xml_.uuid_.empty()) return wrong("no name or no UUID");
    return std::move(xml_);
}

Result<std::string> DomainXmlReader::take_name() {
    auto const begin = at_;
    while (!rest().empty() && is_name_part(rest().front())) ++at_;
    if (at_ == begin) return wrong("no name of an element or attribute");
    return xml_.text_.substr(begin, at_ - begin);
}

Result<> DomainXmlReader::take_start() {
    take("<");
    TRY(auto name, take_name());  // "<!" and "<?" have none
    if (open_.size() >= elements_deep_max) return wrong("too many elements in each other");
    open_.push_back(std::move(name));
    for (;;) {
        skip_space();
        bool const empty = take("/>");
        if (empty) {
            open_.pop_back();
            is_over_ = open_.empty();
        }
        if (empty || take(">")) return {};
        TRY_VOID(take_attribute());
    }
}

Result<> DomainXmlReader::take_attribute() {
    TRY(auto const name, take_name());
    skip_space();
    if (!take("=")) return wrong("no value of an attribute");
    skip_space();
    char const quote = rest().empty() ? '\0' : rest().front();
    if (quote != '\'' && quote != '"') return wrong("no value of an attribute");
    ++at_;
    DomainXml::Place place{at_, at_};
    while (!rest().empty() && rest().front() != quote) TRY_VOID(take_character());
    place.end = at_;
    if (rest().empty()) return wrong("no end of an attribute");
    ++at_;
    auto const element = path();
    bool const of_disk = element == "domain/devices/disk/source";
    if (of_disk && (name == "file" || name == "dev")) xml_.images_.push_back(place);
    if (element == "domain/devices/interface/source" && name == "bridge")
        xml_.bridges_.push_back(place);
    return {};
}

Result<> DomainXmlReader::take_end() {
    take("</");
    TRY(auto const name, take_name());
    skip_space();
    if (!take(">") || open_.empty() || open_.back() != name) return wrong("another end");
    open_.pop_back();
    is_over_ = open_.empty();
    return {};
}

Result<> DomainXmlReader::take_character() {
    auto const byte = static_cast<unsigned char>(rest().front());
    if (byte == '<' || byte == 0x7f || (byte < 0x20 && !is_space(rest().front())))
        return wrong("a character that is not allowed");
    auto const length = byte == '&' ? entity_length(rest()) : 1;
    if (length == 0) return wrong("an entity");
    at_ += length;
    return {};
}

Result<> DomainXmlReader::take_text() {
    auto const begin = at_;
    while (!rest().empty() && rest().front() != '<') TRY_VOID(take_character());
    auto const element = path();
    auto* const into = element == "domain/name"   ? &xml_.name_
                       : element == "domain/uuid" ? &xml_.uuid_
                                                  : nullptr;
    if (into == nullptr) return {};
    // Another text would be a part of the first one, or another element's.
    if (!into->empty()) return wrong("a second name or UUID");
    *into = unescaped(std::string_view(xml_.text_).substr(begin, at_ - begin));
    return {};
}

Result<DomainXml> DomainXml::parse(std::string text) {
    return DomainXmlReader(std::move(text)).read();
}

DomainXml DomainXml::with(Map const& image, Map const& bridge) const {
    std::vector<std::pair<Place, std::string>> changes;
    auto const change = [&](std::vector<Place> const& places, Map const& map) {
        for (auto const& place : places) {
            auto const old = std::string_view(text_).substr(place.begin, place.end - place.begin);
            changes.emplace_back(place, escaped(map(unescaped(old))));
        }
    };
    change(images_, image);
    change(bridges_, bridge);
    std::ranges::sort(changes, {}, [](auto const& one) { return one.first.begin; });
    DomainXml made;
    made.name_ = name_;
    made.uuid_ = uuid_;
    std::size_t done = 0;
    for (auto const& [place, value] : changes) {
        made.text_ += text_.substr(done, place.begin - done) + value;
        done = place.end;
    }
    made.text_ += text_.substr(done);
    return made;
}

}  // namespace sidecar::libvirt
