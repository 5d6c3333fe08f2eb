"""Which files are source text, by name: a table from extension or file name to language."""

from __future__ import annotations

from pathlib import PurePosixPath

BY_EXTENSION = {
    extension: language
    for language, extensions in {
        "Assembly": "asm s",
        "Batchfile": "bat cmd",
        "C": "c h",
        "C#": "cs",
        "C++": "cc cpp cxx hh hpp hxx inl ipp",
        "CMake": "cmake",
        "CSS": "css",
        "CUDA": "cu cuh",
        "Clojure": "clj cljs cljc",
        "Cython": "pyx pxd pxi",
        "Dart": "dart",
        "Elixir": "ex exs",
        "Elm": "elm",
        "Erlang": "erl hrl",
        "F#": "fs fsi fsx",
        "Fortran": "f f90 f95 f03 f08",
        "GLSL": "glsl vert frag comp",
        "Go": "go",
        "GraphQL": "graphql gql",
        "Groovy": "groovy gradle",
        "HCL": "tf hcl",
        "HTML": "html htm",
        "Haskell": "hs",
        "INI": "ini cfg",
        "JSON": "json",
        "Java": "java",
        "JavaScript": "js jsx mjs cjs",
        "Julia": "jl",
        "Jupyter Notebook": "ipynb",
        "Kotlin": "kt kts",
        "Lua": "lua",
        "Markdown": "md markdown mdx",
        "Metal": "metal",
        "Nim": "nim",
        "Nix": "nix",
        "OCaml": "ml mli",
        "Objective-C": "m mm",
        "PHP": "php",
        "Perl": "pl pm",
        "PowerShell": "ps1 psm1",
        "Prisma": "prisma",
        "Protocol Buffer": "proto",
        "Python": "py pyi pyw",
        "R": "r",
        "Ruby": "rb rake gemspec",
        "Rust": "rs",
        "SCSS": "scss sass less",
        "SQL": "sql",
        "Scala": "scala sc",
        "Shell": "sh bash zsh fish",
        "Solidity": "sol",
        "Starlark": "bzl bazel",
        "Svelte": "svelte",
        "Swift": "swift",
        "TOML": "toml",
        "Thrift": "thrift",
        "TypeScript": "ts tsx mts cts",
        "VHDL": "vhd vhdl",
        "Verilog": "v sv svh",
        "Vim Script": "vim",
        "Vue": "vue",
        "YAML": "yaml yml",
        "Zig": "zig",
        "reStructuredText": "rst",
    }.items()
    for extension in extensions.split()
}

BY_NAME = {
    "BUILD": "Starlark",
    "CMakeLists.txt": "CMake",
    "Containerfile": "Dockerfile",
    "Dockerfile": "Dockerfile",
    "GNUmakefile": "Makefile",
    "Gemfile": "Ruby",
    "Jenkinsfile": "Groovy",
    "Justfile": "Just",
    "Makefile": "Makefile",
    "Rakefile": "Ruby",
    "Vagrantfile": "Ruby",
    "WORKSPACE": "Starlark",
    "justfile": "Just",
    "makefile": "Makefile",
    "meson.build": "Meson",
}

NOTEBOOK = "Jupyter Notebook"
PROSE = frozenset({"Markdown", "reStructuredText"})
CONFIGURATION = frozenset({"INI", "JSON", "TOML", "YAML"})


def language_of(path: str) -> str | None:
    """The language of a file by its name, or None when it is not source text."""
    name = PurePosixPath(path).name
    if name in BY_NAME:
        return BY_NAME[name]
    stem, dot, extension = name.rpartition(".")
    if not dot:
        return None
    if extension.lower() in ("mk", "mak"):
        return "Makefile"
    if stem in ("Dockerfile", "Containerfile") or extension.lower() == "dockerfile":
        return "Dockerfile"
    return BY_EXTENSION.get(extension.lower())
