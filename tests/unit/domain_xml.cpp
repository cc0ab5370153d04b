// The definition of a domain that another host sent: sidecar/libvirt/domain_xml.hpp.
#include <catch2/catch.hpp>

#include "sidecar/libvirt/domain_xml.hpp"

namespace domain_xml_cases {

using sidecar::libvirt::DomainXml;

namespace {

std::string const ordinary = R"(<domain type='qemu'>
  <name>web1</name>
  <uuid>0b5c7d4e-7a5f-4bd3-9c5c-6f0d1f1f7a11</uuid>
  <description>a &amp; b &lt;name&gt;x&lt;/name&gt;</description>
  <devices>
    <disk type='file' device='disk'>
      <source file='/srv/vm/a&amp;b.qcow2'/>
    </disk>
    <disk type='block' device='disk'>
      <source dev="/dev/vg/web1"/>
    </disk>
    <interface type='bridge'>
      <source bridge='br0'/>
    </interface>
    <filesystem><source file='/srv/vm/a&amp;b.qcow2'/></filesystem>
  </devices>
</domain>
)";

std::string with(std::string const& from, std::string const& to) {
    auto text = ordinary;
    return text.replace(text.find(from), from.size(), to);
}

std::string same(std::string const& value) { return value; }

}  // namespace

TEST_CASE("a definition that libvirt prints is read", "[libvirt]") {
    auto const xml = DomainXml::parse(ordinary);
    if (!xml) FAIL(xml.error().sentence());
    CHECK(xml->name() == "web1");
    CHECK(xml->uuid() == "0b5c7d4e-7a5f-4bd3-9c5c-6f0d1f1f7a11");
    CHECK(xml->text() == ordinary);
}

TEST_CASE("images and bridges of a definition are replaced, and nothing else", "[libvirt]") {
    auto const xml = DomainXml::parse(ordinary).value();
    auto const moved = xml.with(
        [](std::string const& path) { return path == "/srv/vm/a&b.qcow2" ? "/b\"c" : path; },
        [](std::string const& bridge) { return bridge + "-there"; });
    if (!moved) FAIL(moved.error().sentence());
    auto expected = with("'/srv/vm/a&amp;b.qcow2'", R"('/b"c')");
    expected.replace(expected.find("'br0'"), 5, "'br0-there'");
    // libxml2 has quotes and a first line of its own.
    auto const printed = DomainXml::parse(expected).value().with(same, same).value();
    CHECK(moved->text() == printed.text());
    CHECK(moved->text() != xml.with(same, same)->text());
    CHECK(moved->name() == "web1");
}

TEST_CASE("what is not the definition of one domain is refused", "[libvirt]") {
    std::string const name = "<name>web1</name>";
    std::vector<std::string> const hostile{
        "",
        "<domain/>",
        "x",
        "<!DOCTYPE domain [<!ENTITY n 'db1'>]>" + with(name, "<name>&n;</name>"),
        "<!DOCTYPE domain SYSTEM 'file:///etc/passwd'>" + ordinary,
        with(name, "<name>&n;</name>"),
        with(name, "<name>db1</name>" + name),
        with(name, name + "<name>db1</name>"),
        with(name, "<name/>"),
        with(name, ""),
        with(name, "<x:name xmlns:x='urn:x'>web1</x:name>"),
        with(name, "<os>" + name + "</os>"),
        with("<domain", "<domain xmlns='urn:x'"),
        with("</domain>", "</domain><domain/>"),
        with("</domain>", ""),
        with("</devices>", "</disk>"),
        with("'qemu'", "'qemu"),
        with("'qemu'", "qemu"),
        with("'qemu'", "'<'"),
        with("web1", std::string("web1\0", 5)),
        with("<devices>", std::string(4000, ' ') + std::string(400, '<')),
        with("a &amp; b", std::string(300 * 1024, 'a')),
    };
    for (auto const& text : hostile) {
        INFO(text.substr(0, 200));
        auto const xml = DomainXml::parse(text);
        REQUIRE_FALSE(xml);
        CHECK(xml.error().code == core::Errc::invalid);
    }
    std::string deep = "<domain>";
    for (int depth = 0; depth < 1000; ++depth) deep += "<a>";
    CHECK_FALSE(DomainXml::parse(deep));
}

TEST_CASE("a definition cannot be made another by what is put into it", "[libvirt]") {
    auto const xml = DomainXml::parse(ordinary).value();
    auto const moved = xml.with([](auto const&) { return "'/><name>db1</name>"; },
                                [](auto const&) { return "\"&<>'"; });
    if (!moved) FAIL(moved.error().sentence());
    CHECK(moved->name() == "web1");
    CHECK_FALSE(xml.with([](auto const&) { return "/a\x01"; }, same));
}

}  // namespace domain_xml_cases
