#include "sidecar/libvirt/domain_xml.hpp"

#include <libxml/parser.h>
#include <libxml/tree.h>

#include <memory>
#include <optional>
#include <string_view>

#include "core/library.hpp"

namespace sidecar::libvirt {

using core::Errc;
using core::fail;
using core::Result;

namespace {

/// Every function of libxml2 that is called here. xmlFree is a pointer that may be replaced.
#define LIBXML2_FUNCTIONS(X) \
    X(xmlDocDumpMemoryEnc)   \
    X(xmlDocGetRootElement)  \
    X(xmlFree)               \
    X(xmlFreeDoc)            \
    X(xmlGetIntSubset)       \
    X(xmlGetNoNsProp)        \
    X(xmlNodeGetContent)     \
    X(xmlReadMemory)         \
    X(xmlSetProp)

struct Libxml2 {
#define DECLARE(name) decltype(&::name) name = nullptr;
    LIBXML2_FUNCTIONS(DECLARE)
#undef DECLARE

    static Result<Libxml2 const*> load() {
        static std::optional<Libxml2> loaded;
        if (loaded) return &*loaded;
        Libxml2 made;
        TRY(auto const library, core::Library::load({"libxml2.so.2"}, "libxml2"));
#define BIND(name) TRY_VOID(library.bind(made.name, #name));
        LIBXML2_FUNCTIONS(BIND)
#undef BIND
        loaded = made;
        return &*loaded;
    }
};

xmlChar const* xml_text(char const* text) { return reinterpret_cast<xmlChar const*>(text); }

std::string_view plain_text(xmlChar const* text) { return reinterpret_cast<char const*>(text); }

/// A definition as a tree. Invariant: it has a root, "domain".
class DomainTree {
public:
    static Result<DomainTree> read(std::string const& text);

    /// The text of the one child `element` of the domain. Fails with invalid.
    [[nodiscard]] Result<std::string> child_text(std::string_view element) const;
    /// Replaces the values of an attribute of all elements
    /// /domain/devices/`device`/source.
    [[nodiscard]] Result<> replace(std::string_view device, char const* attribute,
                                   DomainXml::Map const& map);
    [[nodiscard]] Result<std::string> print() const;

private:
    DomainTree(Libxml2 const& xml, xmlDoc* document)
        : xml_(&xml), document_(document, xml.xmlFreeDoc) {}

    [[nodiscard]] xmlNode* root() const { return xml_->xmlDocGetRootElement(document_.get()); }
    [[nodiscard]] std::string take(xmlChar* text) const {
        std::string copy(plain_text(text));
        (*xml_->xmlFree)(text);
        return copy;
    }
    /// Calls `act` with each child of that name, without a namespace, until it fails.
    template <class Act>
    static Result<> each_child(xmlNode* parent, std::string_view name, Act const& act) {
        for (auto* node = parent->children; node != nullptr; node = node->next) {
            bool const is_one = node->type == XML_ELEMENT_NODE && node->ns == nullptr &&
                                plain_text(node->name) == name;
            if (is_one) TRY_VOID(act(node));
        }
        return {};
    }

    Libxml2 const* xml_;
    std::unique_ptr<xmlDoc, void (*)(xmlDoc*)> document_;
};

Result<DomainTree> DomainTree::read(std::string const& text) {
    if (text.size() > domain_xml_bytes_max)
        return fail(Errc::invalid, "the definition of a domain is longer than {} KiB",
                    domain_xml_bytes_max / 1024);
    TRY(auto const* const xml, Libxml2::load());
    DomainTree tree(
        *xml, xml->xmlReadMemory(text.data(), static_cast<int>(text.size()), "domain.xml", nullptr,
                                 XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING));
    if (!tree.document_) return fail(Errc::invalid, "the definition of a domain is not XML");
    auto* const root = tree.root();
    if (root == nullptr || root->ns != nullptr || plain_text(root->name) != "domain")
        return fail(Errc::invalid, "the definition is not that of a domain");
    // What it declares could stand for anything, and libvirt prints no declarations.
    if (xml->xmlGetIntSubset(tree.document_.get()) != nullptr)
        return fail(Errc::invalid, "the definition of a domain has declarations");
    return tree;
}

Result<std::string> DomainTree::child_text(std::string_view element) const {
    std::optional<std::string> found;
    TRY_VOID(each_child(root(), element, [&](xmlNode* node) -> Result<> {
        if (found)
            return fail(Errc::invalid, "the definition of a domain has two elements {}", element);
        found = take(xml_->xmlNodeGetContent(node));
        return {};
    }));
    if (!found || found->empty())
        return fail(Errc::invalid, "the definition of a domain has no {}", element);
    return *found;
}

Result<> DomainTree::replace(std::string_view device, char const* attribute,
                             DomainXml::Map const& map) {
    auto const in_source = [&](xmlNode* source) -> Result<> {
        auto* const old = xml_->xmlGetNoNsProp(source, xml_text(attribute));
        if (old == nullptr) return {};
        auto const value = map(take(old));
        if (xml_->xmlSetProp(source, xml_text(attribute), xml_text(value.c_str())) == nullptr)
            return fail(Errc::invalid, "'{}' cannot be a value in the definition of a domain",
                        value);
        return {};
    };
    return each_child(root(), "devices", [&](xmlNode* devices) {
        return each_child(devices, device,
                          [&](xmlNode* node) { return each_child(node, "source", in_source); });
    });
}

Result<std::string> DomainTree::print() const {
    xmlChar* text = nullptr;
    int size = 0;
    xml_->xmlDocDumpMemoryEnc(document_.get(), &text, &size, "UTF-8");
    if (text == nullptr) return fail(Errc::io, "the definition of a domain cannot be printed");
    return take(text);
}

}  // namespace

Result<DomainXml> DomainXml::parse(std::string text) {
    TRY(auto const tree, DomainTree::read(text));
    DomainXml made;
    TRY(made.name_, tree.child_text("name"));
    TRY(made.uuid_, tree.child_text("uuid"));
    made.text_ = std::move(text);
    return made;
}

Result<DomainXml> DomainXml::with(Map const& image, Map const& bridge) const {
    TRY(auto tree, DomainTree::read(text_));
    for (auto const* const attribute : {"file", "dev"})
        TRY_VOID(tree.replace("disk", attribute, image));
    TRY_VOID(tree.replace("interface", "bridge", bridge));
    TRY(auto text, tree.print());
    return parse(std::move(text));
}

}  // namespace sidecar::libvirt
