// Library: a shared library that is loaded when it is first used. For libraries that few sidecars
// use, and that would cost each of them megabytes of memory if they were linked.
#pragma once

#include <initializer_list>
#include <string>

#include "core/result.hpp"

namespace core {

class Library {
public:
    /// Loads the first of `files` ("libcurl.so.4") that is installed; it stays loaded. `package`:
    /// what to install. Fails with refused, in the loader's words.
    static Result<Library> load(std::initializer_list<char const*> files, char const* package);

    /// Sets `function` to the library's function `name`. Fails with refused if it has none.
    template <class Function>
    Result<> bind(Function*& function, char const* name) const {
        TRY(auto* const address, find(name));
        function = reinterpret_cast<Function*>(address);
        return {};
    }

private:
    Library(void* handle, std::string file) : handle_(handle), file_(std::move(file)) {}
    [[nodiscard]] Result<void*> find(char const* name) const;

    void* handle_;  ///< Never closed.
    std::string file_;
};

}  // namespace core
