"""Finds the kernels of a shader in its tokens: names, arguments, template instances.
Types are left to the compiler; what is read here are the attributes."""
import re

from rewrite import attribute_at, number
from source import SourceError, closing, closing_angle, join, significant, split

BUILTINS = ["thread_position_in_grid", "thread_position_in_threadgroup", "threadgroup_position_in_grid",
            "threads_per_threadgroup", "threads_per_grid", "threadgroups_per_grid",
            "dispatch_threads_per_threadgroup", "grid_origin", "thread_index_in_threadgroup",
            "thread_index_in_simdgroup", "simdgroup_index_in_threadgroup", "threads_per_simdgroup",
            "simdgroups_per_threadgroup", "thread_index_in_quadgroup", "quadgroup_index_in_threadgroup",
            "quadgroups_per_threadgroup", "thread_execution_width"]


class Argument:
    """kind: buffer, threadgroup or builtin; index: binding, or the builtin's number."""

    def __init__(self, name, type_text, kind, index, constant, reference, optional):
        self.name, self.type, self.kind, self.index = name, type_text, kind, index
        self.constant, self.reference, self.optional = constant, reference, optional


class Kernel:
    def __init__(self, name, function, arguments, attributes, instance=()):
        self.name, self.function, self.arguments = name, function, arguments
        self.deduced = None  # of an instance that names no template arguments: the types of its parameters
        self.instance = instance  # the tokens of its explicit instantiation, if it is one
        self.max_threads = _number(attributes.get("max_total_threads_per_threadgroup"))
        self.constants = []  # one bool a function constant of the shader: whether it uses it (uses.py)
        # Ours, a hint for PTX: simdgroups that should find registers on a core side by side.
        self.resident = _number(attributes.get("msl_resident_simdgroups"))


def _attributes(tokens):
    """(tokens without attributes, {name: arguments})."""
    rest, found, i = [], {}, 0
    while i < len(tokens):
        attribute = attribute_at(tokens, i) if tokens[i].text == "[" else None
        if attribute is None:
            rest.append(tokens[i])
            i += 1
        else:
            found.update(dict(attribute[1]))
            i = attribute[0]
    return rest, found


def _argument(tokens, next_index):
    rest, attributes = _attributes(tokens)
    where = tokens[0]
    names = [k for k, t in enumerate(rest) if t.kind == "name"]
    array = rest and rest[-1].text == "]"  # a pointer, as everywhere in C
    while rest and rest[-1].text == "]":
        depth = len(rest) - 1
        while rest[depth].text != "[":
            depth -= 1
        rest = rest[:depth]
        names = [k for k, t in enumerate(rest) if t.kind == "name"]
    if not names:
        raise SourceError(where.file, where.line, f"cannot read the kernel argument '{join(tokens)}'")
    name = rest[names[-1]].text
    kind = rest[:names[-1]] + rest[names[-1] + 1:]
    words = [t.text for t in kind] + ["*"] * bool(array)
    type_text = " ".join(words)
    optional = "function_constant" in attributes
    for builtin in BUILTINS:
        if builtin in attributes:
            return Argument(name, type_text, "builtin", BUILTINS.index(builtin), False, False, False)
    if "threadgroup" in attributes:
        return Argument(name, type_text, "threadgroup", number(attributes["threadgroup"], where), False, "&" in words, optional)
    if "*" not in words and "&" not in words:
        raise SourceError(where.file, where.line,
                          f"kernel argument {name} of type {type_text}: textures, samplers and stage inputs are not "
                          "supported; expected a pointer, a reference or a position attribute")
    if "threadgroup" in words:
        return Argument(name, type_text, "threadgroup", next_index["threadgroup"], False, "&" in words, optional)
    index = number(attributes["buffer"], where) if "buffer" in attributes else next_index["buffer"]
    return Argument(name, type_text, "buffer", index, "constant" in words, "&" in words, optional)


def _arguments(tokens):
    arguments, next_index = [], {"buffer": 0, "threadgroup": 0}
    for part in split(tokens):
        if not part or join(part) == "void":
            continue
        argument = _argument(part, next_index)
        if argument.kind != "builtin":
            for other in arguments:
                if other.kind == argument.kind and other.index == argument.index and not argument.optional:
                    raise SourceError(part[0].file, part[0].line, f"kernel arguments {other.name} and {argument.name} "
                                                                  f"share {argument.kind} index {argument.index}")
            next_index[argument.kind] = max(next_index[argument.kind], argument.index + 1)
        arguments.append(argument)
    return arguments


def _number(text):
    if text is None:
        return 0
    try:
        return int(eval(text.replace("/", "//"), {"__builtins__": {}}))  # a product of literals after preprocessing
    except Exception:
        return 0


def _host_name(attributes, name):
    # Neighbouring literals are one, as everywhere in C.
    return "".join(re.findall(r'"((?:\\.|[^"\\])*)"', attributes.get("host_name") or "")) or name


def _statements(tokens):
    """(tokens up to '{' or ';', qualified namespace) of every declaration at namespace scope."""
    i, start, scopes = 0, 0, []
    while i < len(tokens):
        text = tokens[i].text
        if text == "{":
            head = tokens[start:i]
            if head and head[0].text in ("namespace", "inline", "extern"):
                scopes.append(head[-1].text if head[-1].kind == "name" and head[-1].text != "namespace" else "")
                i += 1
            else:
                yield head, [s for s in scopes if s]
                i = closing(tokens, i) + 1
            start = i
        elif text == "}":
            if scopes:
                scopes.pop()
            i += 1
            start = i
        elif text == ";":
            yield tokens[start:i], [s for s in scopes if s]
            i += 1
            start = i
        elif text in "([":
            i = closing(tokens, i) + 1
        else:
            i += 1


def kernels(all_tokens):
    """Every kernel that has a name: plain functions and explicit instances with host_name."""
    definitions, found = {}, []
    for head, scopes in _statements(significant(all_tokens)):
        rest, attributes = _attributes(head)
        if "kernel" not in attributes and not any(t.text == "kernel" for t in rest):
            continue
        template = bool(rest) and rest[0].text == "template"
        instance = template and rest[1].text != "<"
        body = rest
        if template and not instance:
            end = closing_angle(rest, 1)
            body = rest[end + 1:] if end is not None else rest[1:]
        if instance:
            # The last name before the argument list, or before the end: `decltype(f<..>) f<..>`.
            stop = len(body)
            if body[-1].text == ")":
                depth = len(body) - 1
                level = 0
                while True:
                    level += {")": 1, "(": -1}.get(body[depth].text, 0)
                    if level == 0:
                        break
                    depth -= 1
                stop = depth
            begin = stop
            if body[stop - 1].text == ">":
                level = 0
                while True:
                    begin -= 1
                    level += {">": 1, "<": -1}.get(body[begin].text, 0)
                    if level == 0:
                        break
                begin -= 1
            else:
                begin -= 1
            function, name = join(body[begin:stop]), body[begin].text
            host = _host_name(attributes, name)
            if name not in definitions:
                raise SourceError(head[0].file, head[0].line, f"instance of {name}, which is no kernel template here")
            arguments, of_template, qualifier = definitions[name]
            found.append(Kernel(host, qualifier + function, arguments, {**of_template, **attributes}, head))
            if body[stop - 1].text != ">" and stop < len(body):
                found[-1].deduced = join(body[stop + 1:-1])
            continue
        opening = next((k for k, t in enumerate(body) if t.text == "("), None)
        if opening is None:
            continue
        name = body[opening - 1].text
        arguments = _arguments(_with_attributes(head, name))
        qualifier = "".join(s + "::" for s in scopes)
        definitions[name] = (arguments, attributes, qualifier)
        if not template:
            found.append(Kernel(_host_name(attributes, name), qualifier + name, arguments, attributes))
    names = [k.name for k in found]
    for name in names:
        if names.count(name) > 1:
            raise SourceError("", 0, f"two kernels are named {name}")
    return found


def select(kernels_, names):
    """Those of these names; of the others, what is instantiated for them goes."""
    for kernel in kernels_:
        for token in kernel.instance if kernel.name not in names else ():
            token.text, token.kind = " " * len(token.text), "space"
    return [k for k in kernels_ if k.name in names]


def _with_attributes(head, name):
    """The argument tokens of function `name`, attributes kept."""
    for k in range(len(head) - 1):
        if head[k].text == name and head[k + 1].text == "(":
            return head[k + 2:closing(head, k + 1)]
    raise SourceError(head[0].file, head[0].line, f"cannot find the arguments of {name}")


def _quoted(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _describe(kernel, i, k, a):
    kinds = {"buffer": "kMslBuffer", "threadgroup": "kMslThreadgroup", "builtin": "kMslBuiltin"}
    return (f"    msl::describe<msl::Parameter<msl_function_{i}, {k}>>({_quoted(a.name)}, {_quoted(a.type)}, "
            f"{kinds[a.kind]}, {a.index}, {'true' if a.constant else 'false'}, {'true' if a.optional else 'false'}),\n")


def _deduced_instances(kernels_):
    """C++ before msl/entry.h, where the language's words still mean something."""
    return [f"static constexpr auto msl_instance_{i} = static_cast<void (*)({k.deduced})>(&{k.function});\n"
            for i, k in enumerate(kernels_) if k.deduced is not None]


def _function(i, kernel):
    return kernel.function if kernel.deduced is None else f"(*msl_instance_{i})"


def host_entries(kernels_, constants, symbol, instrumented, table=False):
    """C++ after the shader's text: entry points and the library's table, or the table alone."""
    if table:
        entries = [f"constexpr void (*msl_entry_{i})(const MslThread*) = nullptr;\n" for i in range(len(kernels_))]
        return _library(kernels_, constants, symbol, instrumented, entries, "nullptr")
    entries = [f"void msl_entry_{i}(const MslThread* t) {{ msl::call<msl_arguments_{i}>(&{_function(i, kernel)}, t); }}\n"
               for i, kernel in enumerate(kernels_)]
    return _library(kernels_, constants, symbol, instrumented, entries, "&msl_constant_values")


def air_entries(kernels_, constants):
    """C++ after the shader's text: the kernels under their names, and the table that describes them."""
    entries = []
    for i, kernel in enumerate(kernels_):
        parameters = ", ".join(f"msl::Parameter<msl_function_{i}, {k}> a{k}" for k in range(len(kernel.arguments)))
        values = ", ".join(f"a{k}" for k in range(len(kernel.arguments)))
        entries.append(f"}}\nextern \"C\" void msl_kernel_{i}({parameters}) __asm__({_quoted(kernel.name)});\n"
                       f"extern \"C\" void msl_kernel_{i}({parameters}) {{\n"
                       f"  [[clang::always_inline]] {_function(i, kernel)}({values});\n}}\n"
                       f"namespace {{\nauto* const msl_entry_{i} = (void (*)(const MslThread*)) msl_kernel_{i};\n")
    return _library(kernels_, constants, "msl_library", False, entries, "nullptr")


def _library(kernels_, constants, symbol, instrumented, entries, values):
    out = _deduced_instances(kernels_) + ["#include <msl/entry.h>\n", "namespace {\n"]
    for i, kernel in enumerate(kernels_):
        out.append(f"typedef decltype(&{_function(i, kernel)}) msl_function_{i};\n")
        out.append(f"constexpr MslArgument msl_arguments_{i}[] = {{\n")
        out += [_describe(kernel, i, k, a) for k, a in enumerate(kernel.arguments)]
        if not kernel.arguments:
            out.append("    MslArgument{}\n")
        out += ["};\n", entries[i]]
        used = ", ".join(str(int(u)) for u in kernel.constants) or "0"
        out.append(f"constexpr uint8_t msl_used_constants_{i}[] = {{{used}}};\n")
    out.append("const MslKernel msl_kernels[] = {\n")
    out += [f"    {{{_quoted(k.name)}, msl_entry_{i}, msl_arguments_{i}, {len(k.arguments)}, {k.max_threads}, "
            f"msl_used_constants_{i}}},\n" for i, k in enumerate(kernels_)]
    out.append("    MslKernel{}};\n" if not kernels_ else "};\n")
    out.append("constexpr MslFunctionConstant msl_constants[] = {\n")
    out += [f"    {{{_quoted(n)}, {_quoted(t)}, {i}, sizeof({t})}},\n" for n, t, i in constants]
    out.append("    MslFunctionConstant{}};\n}  // namespace\n")
    out.append(f"extern \"C\" __attribute__((visibility(\"default\"))) const MslLibrary {symbol} = {{\n"
               f"    kMslAbiVersion, {int(instrumented)}, msl_kernels, {len(kernels_)}, {len(constants)}, msl_constants,\n"
               f"    {values}}};\n")
    return "".join(out)


def ptx_entries(kernels_):
    """C++ after the shader's text: one PTX entry a kernel. Parameters: the grid, then
    each buffer's address (a `constant` reference's bytes) or a threadgroup
    allocation's offset, in the order of the kernel's arguments."""
    out = _deduced_instances(kernels_) + ["#include <msl/entry.h>\n"]
    for i, kernel in enumerate(kernels_):
        out.append(f"typedef decltype(&{_function(i, kernel)}) msl_function_{i};\n")
        parameters, values = ["const msl::Grid msl_grid"], []
        for k, a in enumerate(kernel.arguments):
            type_ = f"msl::Parameter<msl_function_{i}, {k}>"
            if a.kind == "builtin":
                values.append(f"msl::get_builtin<{type_}>({a.index}, msl_grid)")
            elif a.kind == "threadgroup":
                parameters.append(f"unsigned a{k}")
                values.append(f"({type_})(msl::msl_dynamic_threadgroup + a{k})")
            elif a.constant and a.reference:
                parameters.append(f"const msl::Bytes<{type_}> a{k}")
                values.append(f"a{k}")
            elif a.reference:
                parameters.append(f"msl::Pointee<{type_}>::type* a{k}")
                values.append(f"*a{k}")
            else:
                parameters.append(f"{type_} a{k}")
                values.append(f"a{k}")
        out.append(f"extern \"C\" __attribute__((nvptx_kernel)) void msl_entry_{i}({', '.join(parameters)}) {{\n"
                   f"  if (msl::outside(msl_grid)) return;\n"
                   f"  [[clang::always_inline]] {_function(i, kernel)}({', '.join(values)});\n}}\n")
    return "".join(out)
