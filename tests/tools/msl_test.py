#!/usr/bin/env python3
"""The MSL toolchain's own tests: tokens, rewriting, reflection, the strict check."""
import os
import re
import shlex
import subprocess
import sys
import tempfile
import unittest
import unittest.mock

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tools/msl"))
import alignment  # noqa: E402
import lint  # noqa: E402
import names  # noqa: E402
import private_arrays  # noqa: E402
import reflect  # noqa: E402
import rewrite  # noqa: E402
import shim_names  # noqa: E402
import uses  # noqa: E402
from compile import CompileError, Shader, compile_object, compile_ptx, compile_shared, ptx_errors, strict_errors  # noqa: E402
from source import CLANG, SourceError, flat_text, significant, tokenize  # noqa: E402


def rewritten(text):
    tokens = tokenize(text)
    rewrite.rewrite(tokens)
    return rewrite.text_of(tokens)


def flat(text):
    return " ".join(text.split())


def kernels(text):
    return {k.name: k for k in reflect.kernels(tokenize(text))}


class Files(unittest.TestCase):
    """Shaders of several files: as one text, and what they depend on."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.write("common/b.h", "#pragma once\n#include <metal_stdlib>\nconstant constexpr uint kB = 2;\n")
        self.write("common/a.h", '#pragma once\n#include "b.h"\nconstant constexpr uint kA = kB;\n')
        self.shader = self.write("x.metal", '#include "common/b.h"\n#include "common/a.h"\nusing namespace metal;\n'
                                            "kernel void f(device uint* out [[buffer(0)]]) { out[0] = kA; }\n")

    def write(self, name, text):
        path = os.path.join(self.folder.name, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path

    def test_flat_text_compiles_by_itself_and_errors_keep_their_places(self):
        text = flat_text(self.shader)
        self.assertNotIn('#include "', text)
        self.assertEqual(text.count("kB = 2"), 1)
        alone = self.write("alone/flat.metal", text)
        self.assertEqual(strict_errors(Shader(alone)), [])
        broken = self.write("alone/flat.metal", text.replace("kA = kB", "kA = kC"))
        self.assertRegex("".join(strict_errors(Shader(broken))), r"a\.h:3:.*kC")

    def test_a_missing_header_is_named(self):
        path = self.write("y.metal", '\n#include "nothing.h"\n')
        with self.assertRaisesRegex(SourceError, r"y\.metal:2: error: nothing\.h is not there"):
            flat_text(path)

    def test_bytes_that_are_no_text_are_placed(self):
        with open(os.path.join(self.folder.name, "common/a.h"), "ab") as f:
            f.write(b"// gr\xfcn, which no compiler reads\r\nconstant int gr\xfcn = 1;\n")
        for read, line in (Shader, 5), (flat_text, 4):
            with self.assertRaisesRegex(SourceError, rf"a\.h:{line}: error: byte 0xfc is not UTF-8"):
                read(self.shader)

    def test_what_a_shader_was_made_from(self):
        names = [os.path.basename(n) for n in Shader(self.shader).files]
        self.assertEqual([n for n in names if n != "metal_stdlib"], ["a.h", "b.h", "x.metal"])


class Rewrite(unittest.TestCase):
    def test_attributes_go_and_leave_their_width(self):
        text = "kernel void f(uint i [[thread_position_in_grid]], uint j) {}"
        self.assertEqual(len(rewritten(text)), len(text))
        self.assertNotIn("[[", rewritten(text))
        self.assertIn("[[maybe_unused]]", rewritten("[[maybe_unused]] int x;"))

    def test_lines_are_kept(self):
        text = '# 1 "a.metal"\n\n\nkernel void f(\n  uint i [[thread_position_in_grid]]) {\n  threadgroup float\n t[4];\n}\n'
        self.assertEqual(rewritten(text).count("\n"), text.count("\n"))

    def test_threadgroup_variables(self):
        out = flat(rewritten("void f() { threadgroup float a[4][8], b; threadgroup metal::array<half, 4> c[2]; }"))
        self.assertIn("MSL_THREADGROUP_VARIABLE(a, [4][8], float); MSL_THREADGROUP_VARIABLE(b, , float)", out)
        self.assertIn("MSL_THREADGROUP_VARIABLE(c, [2], metal::array<half, 4>)", out)

    def test_threadgroup_pointers_stay(self):
        for text in ("void f() { threadgroup float* p = q; }", "void f() { threadgroup float& r = q[0]; }",
                     "void f() { x = *(threadgroup const uint4*)(p + 1); }"):
            self.assertEqual(flat(rewritten(text)), flat(text))

    def test_array_parameters_become_pointers(self):
        out = flat(rewritten("void f(threadgroup float a[4][8], device int b[3], threadgroup half* c) {}"))
        self.assertIn("threadgroup float (*a)[8]", out)
        self.assertIn("device int *b", out)
        self.assertIn("threadgroup half* c", out)

    def test_initializers_of_threadgroup_variables(self):
        out = flat(rewritten("void f() { threadgroup float a = 0, b[2] = {0.0f, 0}, c; }"))
        self.assertIn("MSL_THREADGROUP_VARIABLE(a, , float); MSL_THREADGROUP_VARIABLE(b, [2], float); "
                      "MSL_THREADGROUP_VARIABLE(c, , float)", out)
        with self.assertRaisesRegex(SourceError, "<text>:2: .*threadgroup variable a has an initializer that is not zero"):
            rewritten("void f() {\nthreadgroup float a[2] = {0, 1}; }")

    def test_indices_are_numbers_of_c(self):
        out = rewritten("constant int n [[function_constant(010 + 0x10)]];")
        self.assertIn('MSL_FUNCTION_CONSTANT(n, "_Z1n.MTL_FC_INIT_24_i", 0, int)', out)
        self.assertEqual(rewrite.function_constants(tokenize("constant int n [[function_constant(010 + 0x10)]];")),
                         [("n", "int", 24)])
        for wrong in ("09", "n", "1 +", "2 2"):
            with self.assertRaisesRegex(SourceError, rf"<text>:1: error: '.*{re.escape(wrong[0])}.*' is no number"):
                rewritten(f"constant int n [[function_constant({wrong})]];")

    def test_qualified_function_constants(self):
        self.assertIn('static MSL_FUNCTION_CONSTANT(n, "_Z1n.MTL_FC_INIT_0_b", 0, bool)',
                      flat(rewritten("static constant constexpr const bool n [[function_constant(0)]];")))

    def test_braces_among_arguments(self):
        out = flat(rewritten("void g() { f<int>({a.x, 2}, b, {}); threadgroup int t[2]; }"))
        self.assertIn("f<int>(metal::msl_braces(a.x, 2 ), b, metal::msl_braces( ));", out)
        self.assertIn("MSL_THREADGROUP_VARIABLE(t, [2], int)", out)
        for text in ("int a[2] = {1, 2};", "int b[2][2] = {{1, 2}, {3, 4}};", "s c = s{1, {2}};",
                     "void f() { for (int i : x) {} }"):
            self.assertEqual(flat(rewritten(text)), text)

    def test_conditional_operands(self):
        out = flat(rewritten("template <typename T> T f(device T* p) { return a ? p[i + 1] : b ? g(q) : *r ? C::c : s.t; }"))
        self.assertIn("return a ? MSL_OPERAND(p[i + 1]) : b ? g(q) : *r ? MSL_OPERAND(C::c) : MSL_OPERAND(s.t);", out)
        self.assertEqual(flat(rewritten("float f() { return a ? p[1] : 2; }")), "float f() { return a ? p[1] : 2; }")

    def test_function_constants_and_what_is_derived(self):
        out = flat(rewritten("constant int n [[function_constant(4)]]; constant bool big = n > 2; constant int k = 3;"))
        self.assertIn('MSL_FUNCTION_CONSTANT(n, "_Z1n.MTL_FC_INIT_4_i", 0, int)', out)
        self.assertIn("operator bool() const { return n > 2; } } big{}", out)
        self.assertIn("constant int k = 3;", out)

    def test_vector_casts(self):
        self.assertIn("metal::msl_cast<float4>() ->* v", flat(rewritten("float4 w = (float4) v;")))
        self.assertIn("metal::msl_cast<half2>() ->* -v", flat(rewritten("h = (half2)-v;")))
        self.assertIn("metal::msl_cast<half4>() ->* *p", flat(rewritten("h = (half4) *p;")))
        template = "template <typename T, int N> void f(int v) { T x = (T) (v + 1); T y = (N) * v; }"
        self.assertIn("metal::msl_cast<T>() ->* (v + 1)", flat(rewritten(template)))
        self.assertIn("(N) * v", flat(rewritten(template)))
        conversion = "template <typename T> T f(float2 v) { T(); T w(v); return T(v.x + 1) * T{1, 2}; }"
        self.assertIn("T(); T w(v); return metal::msl_convert<T>(v.x + 1) * T{1, 2};", flat(rewritten(conversion)))
        self.assertIn("return metal::msl_convert<T>(1, g(2, 3));",
                      flat(rewritten("template <typename T> T f() { return T(1, g(2, 3)); }")))
        self.assertIn("metal::msl_cast<t>() ->* *p", flat(rewritten("typedef float4 t; void f() { x = (t) *p; }")))
        self.assertIn("metal::msl_make<vec<T,4>> (a)", flat(rewritten("x = vec<T, 4>(a);")))
        self.assertIn("f(float4)", flat(rewritten("void f(float4);")))
        self.assertIn("vec<T, 2> (&x)[4]", flat(rewritten("void f(thread vec<T, 2> (&x)[4]);")))

    def test_members_of_an_address_space(self):
        out = flat(rewritten("struct c { c(float x) thread : r(x) {} c(float x) device : r(x) {} c(float x) constant : r(x) {} float f() const constant;"
                             " operator float() const thread { return r; } operator float() const device { return r; }"
                             " float r; };"))
        self.assertEqual(out, "struct c { c(float x) : r(x) {} float f() const ; operator float() const { return r; } "
                              "float r; };")

    def test_vectors_made_in_their_definition(self):
        out = flat(rewritten("float2 f(float2 v); void g() { const short2 a(1, b(2)); if (x) { float4 c(0.f); } }"))
        self.assertIn("float2 f(float2 v);", out)
        self.assertIn("const short2 a = metal::msl_make<short2>(1, b(2));", out)
        self.assertIn("float4 c = metal::msl_make<float4>(0.f);", out)

    def test_vectors_of_bool(self):
        self.assertIn("metal::msl_bool_vector< 4> v;", flat(rewritten("metal::vec<bool, 4> v;")))

    def test_string_arguments_are_constant(self):
        out = flat(rewritten('log l("a", "b"); static_assert(x, "no"); void f() { static_assert(y(z), "none"); }'))
        self.assertIn('log l((constant const char*)"a", (constant const char*)"b");', out)
        self.assertIn('static_assert(x, "no"); void f() { static_assert(y(z), "none"); }', out)

    def test_literals_are_floats(self):
        self.assertEqual(rewritten("x = 0.5 + 1e-3*.5; y = 0x1p-3 + 1.f + 2 + 0x1E + 3.5h;"),
                         "x = 0.5f+ 1e-3f*.5f; y = 0x1p-3f+ 1.f + 2 + 0x1E + 3.5h;")

    def test_comparison_is_no_template(self):
        text = "void f() { if (a < b && c > d) { threadgroup float t; } }"
        self.assertIn("MSL_THREADGROUP_VARIABLE(t, , float)", rewritten(text))


class Reflect(unittest.TestCase):
    def test_indices_given_and_counted(self):
        k = kernels("[[kernel]] void f(device float* a, constant uint& n [[buffer(5)]], device half* c, "
                    "threadgroup float* t [[threadgroup(1)]], uint i [[thread_position_in_grid]]) {}")["f"]
        self.assertEqual([(a.name, a.kind, a.index) for a in k.arguments],
                         [("a", "buffer", 0), ("n", "buffer", 5), ("c", "buffer", 6), ("t", "threadgroup", 1),
                          ("i", "builtin", 0)])
        self.assertTrue(k.arguments[1].constant and k.arguments[1].reference)

    def test_names_of_instances(self):
        found = kernels(
            "template <typename T, int N> [[kernel, max_total_threads_per_threadgroup(2 * 64)]] void f(device T* a) {}"
            'template [[host_name("f_" "one")]] [[kernel, msl_resident_simdgroups(24)]] void f<float, 1>(device float*);'
            'template [[host_name("f_two")]] [[kernel]] decltype(f<vec<half, 4>, 2>) f<vec<half, 4>, 2>;'
            'typedef decltype(f<int, 3>) f_t; template [[host_name("f_three")]] kernel f_t f<int, 3>;')
        self.assertEqual(sorted(found), ["f_one", "f_three", "f_two"])
        self.assertEqual(found["f_two"].function, "f<vec<half,4>,2>")
        self.assertEqual(found["f_one"].max_threads, 128)
        self.assertEqual((found["f_one"].resident, found["f_two"].resident), (24, 0))

    def test_namespaces(self):
        found = kernels("namespace a { namespace b { kernel void f(device int* x) {} } } kernel void g(device int* x) {}")
        self.assertEqual(found["f"].function, "a::b::f")
        self.assertEqual(found["g"].function, "g")

    def test_shared_index_is_an_error(self):
        with self.assertRaisesRegex(SourceError, "arguments a and b share buffer index 1"):
            kernels("kernel void f(device int* a [[buffer(1)]], device int* b [[buffer(1)]]) {}")

    def test_textures_are_named(self):
        with self.assertRaisesRegex(SourceError, "kernel argument t of type texture2d"):
            kernels("kernel void f(texture2d<float> t [[texture(0)]]) {}")


class Names(unittest.TestCase):
    def test_signatures_are_spelled_as_in_the_language(self):
        for demangled, expected in (
                ("metal::max(float, float)", "max(float, float)"),
                ("_Float16 vector[2] metal::fma<_Float16 vector[2], void>(_Float16 vector[2], _Float16 vector[2], _Float16 vector[2])",
                 "fma(half2, half2, half2)"),
                ("_Float16 __vector(2) metal::as_type<_Float16 __vector(2), unsigned int>(unsigned int)", "as_type<half2>(uint)"),
                ("float __vector(4) metal::msl_make<float __vector(4), _Float16 __vector(2), int, int>("
                 "_Float16 __vector(2), int, int)", "float4(half2, scalar, scalar)"),
                ("_Float16 metal::msl_convert<_Float16, float>(float)", None),
                ("float metal::simd_max<float>(float)", "simd_max(float)"),
                ("void metal::simdgroup_store<float>(metal::simdgroup_matrix<float, 8, 8>, float AS3*, unsigned long)",
                 "simdgroup_store(simdgroup_matrix<float, 8, 8>, threadgroup float*, ulong)"),
                ("unsigned int metal::atomic_load_explicit<unsigned int>(metal::msl_atomic<unsigned int> const volatile "
                 "SYlocal*, metal::memory_order)",
                 "atomic_load_explicit(threadgroup const volatile atomic<uint>*, memory_order)"),
                ("metal::precise::tanh(float)", "precise::tanh(float)"), ("llvm.exp.f32", None)):
            self.assertEqual(names.signature(demangled), expected)

    MANGLED = {
        "_ZN5metalL3maxEff": "max(float, float)",
        "_ZN5metalL3minEjj": "min(uint, uint)",
        "_ZN5metalL7as_typeIDv2_DF16_jEET_T0_": "as_type<half2>(uint)",
        "_ZN5metalL7as_typeIDv2_DF16bjEET_T0_": "as_type<bfloat2>(uint)",
        "_ZN5metalL8msl_makeIDv4_fJDv4_DF16bEEET_DpT0_": "float4(bfloat4)",
        "_ZN5metalL8msl_makeIDv3_jJjjiEEET_DpT0_": "uint3(scalar, scalar, scalar)",
        "_ZN5metalL3dotIDv4_fvEENS_11msl_elementIT_E4typeES3_S3_": "dot(float4, float4)",
        "_ZN5metal16simdgroup_matrixIDF16bLi8ELi8EE15thread_elementsEv": "simdgroup_matrix<bfloat, 8, 8>::thread_elements()",
        "_ZN5metalL14simdgroup_loadIDF16bEEvRNS_16simdgroup_matrixIT_Li8ELi8EEEPU3AS3KS2_mDv2_mb":
            "simdgroup_load(simdgroup_matrix<bfloat, 8, 8>&, threadgroup const bfloat*, ulong, ulong2, bool)"}

    def test_either_demangler_serves(self):
        llvms = subprocess.run([CLANG, "-print-prog-name=llvm-cxxfilt"], capture_output=True, text=True, check=True).stdout.strip()
        with tempfile.TemporaryDirectory() as folder:
            fake = os.path.join(folder, "c++filt")
            with open(fake, "w", encoding="utf-8") as f:  # takes underscores as a Mac's does
                f.write(f'#!/bin/sh\nexec {shlex.quote(llvms)} -_ "$@"\n')
            os.chmod(fake, 0o755)
            for path in os.environ["PATH"], folder + ":" + os.environ["PATH"]:
                with unittest.mock.patch.dict(os.environ, PATH=path):
                    found = [names.signature(text) for text in names.demangled(self.MANGLED)]
                self.assertEqual(found, list(self.MANGLED.values()))

    def test_the_document_is_what_the_table_and_the_shim_make(self):
        with open(shim_names.DOCUMENT, encoding="utf-8") as f:
            self.assertEqual(f.read(), shim_names.table_text())

    def test_what_is_seen_is_in_the_specification(self):
        table = names.Table()
        seen, table.seen = table.seen, {}
        self.assertEqual([n for n in seen if "(" in n and table.column(n) is None], [])

    def test_a_letter_is_one_type_throughout(self):
        table = names.Table()
        self.assertEqual(table.column("smoothstep(half3, half3, half3)"), "spec")
        self.assertIsNone(table.column("smoothstep(half3, half3, float3)"))
        self.assertEqual(table.column("char4(char2, scalar, scalar)"), "spec")
        self.assertIsNone(table.column("char4(char2, scalar)"))


class Uses(unittest.TestCase):
    def test_constants_of_kernels(self):
        text = ("constant bool staged [[function_constant(0)]]; constant int size [[function_constant(3)]];"
                "constant bool large = size > 2;"
                "template <typename T> inline T twice(T x) { return staged ? x + x : 2 * x; }"
                "struct Codec { static float decode(float x) { return twice(x); } };"
                "typedef Codec Short;"
                "template <typename C> kernel void f(device float* x [[buffer(0)]]) { x[0] = C::decode(x[0]); }"
                'template [[host_name("f_short")]] kernel void f<Short>(device float*);'
                "kernel void g(device float* x [[buffer(0)]]) { x[0] = large ? 1 : 2; }"
                "kernel void h(device float* x [[buffer(0)]], device float* y [[buffer(1), function_constant(staged)]]) {}"
                "kernel void k(device float* x [[buffer(0)]]) { x[0] = 1; }")
        tokens = tokenize(text)
        constants = [("staged", "bool", 0), ("size", "int", 3)]
        found = {k.name: used for k, used in zip(reflect.kernels(tokens), uses.constants_of_kernels(
            tokens, reflect.kernels(tokens), constants))}
        self.assertEqual(found, {"f_short": [True, False], "g": [False, True], "h": [True, False],
                                 "k": [False, False]})


class Alignment(unittest.TestCase):
    READ = ("template <typename T> inline uint4 read(threadgroup const T* from, uint i) {"
            " return *(threadgroup const uint4*)(from + 8 * i); }"
            "template <typename T> inline uint4 through(threadgroup T* all) { threadgroup T* const at = all + 8;"
            " return read<T>(at, 1); }")

    def errors(self, body):
        return [e.partition("error: ")[2] for e in alignment.errors(significant(tokenize(self.READ + body)))]

    def test_arrays_narrower_than_what_they_are_read_as(self):
        what = "array {} of {} is aligned to {} bytes, and read as {}, which needs {}: make it an array of such vectors"
        kernel = "template <typename T> kernel void f(device uint4* out) {{ {} }}"
        for text, error in (
                ("threadgroup half a[64]; out[0] = *(threadgroup uint4*)&a[8];", ("a", "half", 2, "uint4", 16)),
                ("threadgroup float a[8], b[64]; out[0] = read(b + a[0], 0);", ("b", "float", 4, "uint4", 16)),
                ("threadgroup T a[64]; out[0] = through<T>(a);", ("a", "T", 2, "uint4", 16)),
                ("float a[4]; out[0] = uint4(*(thread float4*)a);", ("a", "float", 4, "float4", 16)),
                ("threadgroup uint2 a[9]; threadgroup half4* p = (threadgroup half4*)a; out[0] = read(p, 0);",
                 ("a", "uint2", 8, "uint4", 16))):
            self.assertEqual(self.errors(kernel.format(text)), [what.format(*error)], text)

    def test_what_is_aligned(self):
        kernel = "template <typename T> kernel void f(device uint4* out, threadgroup uchar* s [[threadgroup(0)]]) {{ {} }}"
        for text in ("threadgroup uint4 a[64]; out[0] = read((threadgroup half*)a, 0);",
                     "alignas(16) threadgroup half a[64]; out[0] = through(a);",
                     "threadgroup alignas(16) half a[64]; out[0] = through(a);",
                     "threadgroup half a[64]; out[0] = uint4(a[0]); out[1] = *(threadgroup const uint4*)s;",
                     "threadgroup half4 a[4]; half4 b = *(threadgroup half4*)(a + 1);",
                     "threadgroup float a[4]; out[0] = uint4(uint(a[1] * (1 + a[2])));"):
            self.assertEqual(self.errors(kernel.format(text)), [], text)


class Registers(unittest.TestCase):
    def test_a_kernel_that_holds_too_many_is_refused(self):
        shaders = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../shaders")
        for columns, refused in ((8, False), (24, True)):
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "f.metal")
                with open(path, "w", encoding="utf-8") as f:
                    f.write('#include "common/register_budget.h"\n[[kernel]] void f(device uint* x [[buffer(0)]]) {'
                            f"MM_WITHIN_REGISTERS(gemm_registers({columns}, 0, 2, 2)); x[0] = 1; }}\n")
                errors = "".join(strict_errors(Shader(path, [shaders])))
            self.assertEqual("more registers than a thread has" in errors, refused, errors)


class PrivateArrays(unittest.TestCase):
    def test_an_array_that_a_loop_indexes_is_found(self):
        text = ("kernel void f(device const float* x, device float* y, constant uint& n) {\n"
                "  float a[48];\n  LOOP for (uint i = 0; i < 48; ++i) a[i] = x[i];\n"
                "  for (uint k = 0; k < n; ++k) LOOP for (uint i = 0; i < 48; ++i) a[i] = exp(a[i] * x[k + i]);\n"
                "  LOOP for (uint i = 0; i < 48; ++i) y[i] = a[i];\n}\n")
        for loop, count in ('_Pragma("clang loop unroll(full)")', 0), ('_Pragma("clang loop unroll(disable)")', 1):
            with tempfile.NamedTemporaryFile("w", suffix=".metal") as f:
                f.write("#include <metal_stdlib>\nusing namespace metal;\n" + text.replace("LOOP", loop))
                f.flush()
                self.assertEqual(len(private_arrays.arrays_in_memory(private_arrays.plain_code(Shader(f.name)))), count)
                self.assertEqual(len(list(private_arrays.check(f.name))), 2 * count)

    def test_an_array_that_pointers_walk_is_found(self):
        for declared, walked, element, found in (("float a[48]", "a", "float", "[48 x float]"), ("uchar a[48]", "a", "uchar", "[48 x i8]"),
                                                 ("Held a", "a.x", "float", "%struct.Held")):
            text = (f"struct Held {{ float x[48]; }};\nkernel void f(device const float* x, device float* y) {{\n"
                    f"  {declared}; thread {element}* p = {walked};\n  LOOP for (uint i = 0; i < 48; ++i) *p++ = {element}(x[i]);\n"
                    f"  LOOP for (thread {element}* q = {walked}; q != {walked} + 48; ++q) *y++ = *q * p[-1];\n}}\n")
            with tempfile.NamedTemporaryFile("w", suffix=".metal") as f:
                f.write("#include <metal_stdlib>\nusing namespace metal;\n" +
                        text.replace("LOOP", '_Pragma("clang loop unroll(disable)")'))
                f.flush()
                arrays = private_arrays.arrays_in_memory(private_arrays.plain_code(Shader(f.name)))
            self.assertEqual([set(kinds) for kinds in arrays.values()], [{found}])

    def test_shaders_keep_theirs_in_registers(self):
        for name in "moe_router", "gemm_fp4_optimized", "diff_attention":
            self.assertEqual(list(private_arrays.check(name)), [])


class Strict(unittest.TestCase):
    def shader(self, text):
        with tempfile.NamedTemporaryFile("w", suffix=".metal", delete=False) as f:
            f.write("#include <metal_stdlib>\nusing namespace metal;\n" + text)
        self.addCleanup(os.unlink, f.name)
        return Shader(f.name)

    def errors(self, text):
        return "\n".join(strict_errors(self.shader(text)))

    GOOD = ("inline float twice(device const float* x, uint i) { return 2 * x[i]; }\n"
            "[[kernel]] void f(device const float* x [[buffer(0)]], device float* y [[buffer(1)]],\n"
            "                  uint i [[thread_position_in_grid]]) { y[i] = twice(x, i); }\n")

    def test_good_text_passes(self):
        self.assertEqual(self.errors(self.GOOD), "")

    def test_there_is_no_double_in_templates_either(self):
        text = ("template <typename T> T half_of(T x) { static_assert(sizeof(x * 0.5) == sizeof(float)); return x * 0.5; }\n"
                "[[kernel]] void f(device float* y, uint i [[thread_position_in_grid]]) { y[i] = half_of(y[i]); }\n")
        text = text.replace("sizeof(float))", 'sizeof(float), "")')
        self.assertEqual(self.errors(text), "")

    def test_a_callee_that_gained_a_staging_buffer(self):
        text = self.GOOD.replace("twice(device const float* x, uint i)",
                                 "twice(device const float* x, uint i, threadgroup float* staging)")
        self.assertIn("no matching function for call to 'twice'", self.errors(text))

    def test_errors_point_at_the_files_own_line_and_column(self):
        shader = self.shader("[[kernel]] void f(device float* x [[buffer(0)]]) {\n  x[0]   =  missing;\n}\n")
        with tempfile.TemporaryDirectory() as folder, self.assertRaises(CompileError) as caught:
            compile_object(shader, folder + "/a.o", "msl_library")
        self.assertIn(":4:13: error: use of undeclared identifier 'missing'", str(caught.exception))

    def test_address_spaces(self):
        text = "void g(threadgroup float* t) {}\n[[kernel]] void f(device float* x [[buffer(0)]]) { g(x); }\n"
        self.assertIn("no matching function", self.errors(text))
        text = "[[kernel]] void f(constant float* x [[buffer(0)]]) { x[0] = 1; }\n"
        self.assertIn("read-only", self.errors(text).replace("const-qualified", "read-only"))
        text = "void g(float* p) { *p = 1; }\n[[kernel]] void f(device float* x [[buffer(0)]]) { g(x); }\n"
        self.assertIn("names no address space", self.errors(text))
        self.assertIn("plain address spaces", self.errors(text))

    def test_a_matrix_holds_a_vector_of_64_elements(self):
        kernel = ("[[kernel]] void f(device float* y, uint i [[thread_index_in_simdgroup]]) {{\n"
                  "  simdgroup_matrix<float, 8, 8> m = make_filled_simdgroup_matrix<float, 8, 8>(1.0f);\n"
                  "  {}\n  y[i] = m.thread_elements()[0];\n}}\n")
        good = kernel.format("m.thread_elements()[1] = 2.0f; thread auto& e = m.thread_elements(); e[0] = e[1];\n"
                             "  reinterpret_cast<thread vec<float, 2>&>(m.thread_elements()) += float2(1, 2);")
        self.assertEqual(self.errors(good), "")
        with tempfile.TemporaryDirectory() as folder:
            compile_object(self.shader(good), folder + "/a.o", "msl_library")
        for text, what in (("m.thread_elements() = vec<float, 2>(1, 2);", "incompatible type"),
                           ("vec<float, 2> e = m.thread_elements();", "cannot initialize"),
                           ("thread float& e = m.thread_elements()[0];", "vector element")):
            self.assertIn(what, self.errors(kernel.format(text)))

    def test_products_are_no_pointers(self):
        self.assertEqual(self.errors("kernel void f(device float* a) { a[0] = 1.0f; }"
                                     "inline float g(float x, float p) { return x * p; }"), "")

    def test_what_mlx_writes(self):
        """Each line compiles with Apple's compiler."""
        text = """
template <typename T> struct pair { T a, b; pair() = default; template <typename U> pair(U x) thread : a(x), b(0) {}
  template <typename U> operator U() const { return static_cast<U>(a); } };
template <typename I> I locate(I element, int) { return element; }
template <typename I> I locate(uint3 element, int) { return I(element.x + element.y * element.z); }
template <typename T> struct sum { static constexpr constant T init = T(0); T zero = T(0); };
template <typename T> pair<float> pick(const device pair<float>* p, threadgroup pair<float>* q, bool c, T) {
  pair<float> x(1.0f); return c ? p[0] : c ? q[0] : x; }
template <typename T> T both(float a, float b) { return c_of<T>(T(a, b)); }
[[kernel]] void f(device pair<float>* x [[buffer(0)]], volatile coherent(system) device float* y [[buffer(1)]]) {
  threadgroup pair<float> t[2]; t[0] = x[1]; x[0] = pick(x, t, y[0] > 0, 1); x[1].a = locate<int>({1u, 2u, 3u}, 4);
  vec<float, 2> v = both<vec<float, 2>>(1, 2); y[0] = v.x; }
template <typename T> [[kernel]] void g(device T* x [[buffer(0)]]) { x[0] = 0; }
template [[host_name("g_half")]] [[kernel]] void g(device half* x [[buffer(0)]]);
"""
        shader = self.shader("template <typename T> T c_of(T x) { return x; }\n" + text)
        with tempfile.TemporaryDirectory() as folder:
            compile_object(shader, folder + "/a.o", "msl_library")
            compile_object(shader, folder + "/a.o", "msl_library")
        self.assertEqual([k.name for k in shader.kernels], ["f", "g_half"])

    def test_what_the_specification_has(self):
        self.assertEqual(self.errors("""
kernel void f(device float* a [[buffer(0)]], device float4* v [[buffer(1)]], device bfloat* b [[buffer(2)]],
              device atomic_ulong* l [[buffer(3)]], device int* n [[buffer(4)]]) {
  a[0] = median3(a[1], a[2], a[3]) + fmedian3(a[1], a[2], a[3]);
  v[0] = median3(v[1], min3(v[1], v[2], v[3]), fmax3(v[1], v[2], v[3]));
  v[1] = select(v[1], 1.0f, v[1] > 2.0f) + select(0.0f, v[1], isnan(v[1]));
  n[0] = median3(n[1], n[2], n[3]); b[0] = 1.5bf + b[1] * 2.0BF;
  atomic_max_explicit(l, 1ul << 40, memory_order_relaxed);
  atomic_min_explicit(l + 1, 7ul, memory_order_relaxed); }
"""), "")

    def test_braces_and_conditionals_are_strict(self):
        self.assertEqual(self.errors("""
inline uint first(uint3 v) { return v.x; }
template <typename T> T pick(device const T* p, bool c, T x) { return c ? p[0] : x; }
[[kernel]] void f(device uint* a [[buffer(0)]], volatile coherent(system) device uint* b [[buffer(1)]],
                  uint i [[thread_position_in_grid]]) { a[i] = first({a[i], 2u, 3u}) + pick(a, i > 2, b[0]); }
"""), "")

    def test_threadgroup_variables_are_not_initialised(self):
        self.assertIn("threadgroup variable t has an initializer, but threadgroup memory is not initialised",
                      self.errors("[[kernel]] void f(device float* x [[buffer(0)]]) "
                                  "{ threadgroup float t[2] = {0}; x[0] = t[0]; }\n"))

    def test_what_the_language_lacks(self):
        wrap = "[[kernel]] void f(device float* x [[buffer(0)]]) {{ {} }}\n"
        for text, what in (("goto end; end:;", "goto"), ("double d = 0; x[0] = d;", "double"),
                           ("try { x[0] = 1; } catch (...) {}", "exceptions"),
                           ("auto g = [=](float a) { return a; }; x[0] = g(1);", "lambdas came with MSL 3.2"),
                           ("device float* p = new float;", "new")):
            self.assertIn(what, self.errors(wrap.format(text)), text)
        self.assertIn("virtual functions", self.errors("struct S { virtual void f() {} };\n"))
        self.assertIn("f calls itself", self.errors("int f(int n) { return n < 1 ? 0 : f(n - 1); }\n"))
        with self.assertRaises(SourceError):
            self.shader("#include <vector>\n")

    def test_where_variables_may_be(self):
        errors = self.errors("constexpr uint kOne = 1;\nstruct S { static constexpr uint n = 2; };\n"
                             "void g() { threadgroup float t[2]; t[0] = 1; static int s = 0; s = 1; }\n"
                             "constant constexpr uint kTwo = 2;\nconstant bool fc [[function_constant(0)]];\n"
                             "kernel void f(device float* x) { if (fc) { threadgroup float t[kTwo]; t[0] = x[0]; } }\n")
        for found in ("kOne of the program is not in the constant", "static member n is not", "t is declared outside of a kernel",
                      "s of the program is declared in a function"):
            self.assertIn(found, errors)
        self.assertEqual(errors.count("error:"), 4)
        self.assertIn("array size is not a constant", self.errors(
            "constant int n [[function_constant(0)]];\nkernel void f(device float* x) { float a[n]; a[0] = 1; x[0] = a[0]; }\n"))

    def test_functions_that_metal_lacks(self):
        errors = self.errors("template <typename T> T down(T n) { return n < T(1) ? n : down<T>(n - T(1)); }\n"
                             "kernel void f(device bfloat* b, device ulong* n, device float4* v) {\n"
                             "  b[0] = max(b[0], b[1]);\n  n[0] = simd_shuffle(n[0], ushort(1));\n"
                             "  v[0] = float4(v[1].xy);\n  v[0].x = down(v[1].x);\n  v[2] = exp(v[1]);\n}\n")
        for found in (":5: error: Metal has no max(bfloat, bfloat)", ":6: error: Metal has no simd_shuffle(ulong, ushort)",
                      ":7: error: Metal has no float4(float2)", ":3: error: MSL has no recursion"):
            self.assertIn(found, errors)
        self.assertEqual(errors.count("error:"), 4)

    def test_positions_and_indices(self):
        kernel = "kernel void f(device float* x, {}) {{ x[0] = 1; }}\n"
        for argument, what in (("int i [[thread_position_in_grid]]", "is of type int; expected ushort or uint or a vector of 2"),
                               ("uint4 i [[threads_per_grid]]", "is of type uint4"),
                               ("uint2 i [[thread_index_in_simdgroup]]", "is of type uint2; expected ushort or uint$"),
                               ("uint3 i [[thread_position_in_grid]], ushort j [[threads_per_grid]]", "are of one width$"),
                               ("device float* b [[buffer(31)]]", "the last index is 30"),
                               ("threadgroup float* b [[threadgroup(31)]]", "the last index is 30"),
                               ("device float** b", "the outer pointer of b names no address space")):
            self.assertRegex("\n".join(lint.errors(tokenize(kernel.format(argument)), 310)), what)
        for argument in ("ushort3 i [[thread_position_in_grid]]", "const unsigned int i [[thread_index_in_simdgroup]]",
                         "T i [[threads_per_grid]]", "uint3 i [[threads_per_grid]], ushort3 j [[threads_per_threadgroup]], "
                         "uint k [[thread_index_in_simdgroup]]", "device float* b [[buffer(30)]]", "device float* device* b"):
            self.assertEqual(lint.errors(tokenize(kernel.format(argument)), 310), [], argument)

    def test_function_constants_and_kernels(self):
        text = ("constant int a [[function_constant(0)]] = 3;\nconstant bool b [[function_constant(0)]];\n"
                "template <typename T> kernel void f(device T* x) { x[0] = 1.0L; }\n"
                "kernel void g(device float* x) { simdgroup_matrix<int, 8, 8> m; f<float>(x); }\n")
        self.assertEqual([e.split("error: ")[1] for e in lint.errors(tokenize(text), 310)],
                         ["function constant a has an initializer", "function constants a and b share index 0",
                          "MSL has no long double: 1.0L", "simdgroup_matrix of int; expected half, bfloat or float",
                          "a kernel calls the kernel f"])
        text = ("constant int a [[function_constant(0)]];\nconstant int b = 3;\nkernel void f(device int* x "
                "[[buffer(0), function_constant(a)]]) { x[0] = 0xEL; }\nvoid h(device int* x) { x[0] = min(1, S::n * b); }\n"
                "kernel void h(device float* x) { h((device int*)x); }\n")
        self.assertEqual(lint.errors(tokenize(text), 310), [])

    def test_atomics_and_matrices_by_type(self):
        good = ("kernel void f(device atomic_uint* u, device atomic_float* d, device atomic_ulong* l, device float* x,\n"
                "              threadgroup atomic_int* t, threadgroup atomic_float* s, constant float* c) {\n"
                "  const uint n = 2; float a[n]; a[1] = atomic_fetch_add_explicit(d, 1.0f, memory_order_relaxed);\n"
                "  atomic_max_explicit(l, 1ul, memory_order_relaxed);\n  simdgroup_float8x8 m; simdgroup_load(m, x);\n"
                "  x[0] = a[1] + (float2x2(1) * float2(1)).x + atomic_fetch_or_explicit(t, 1, memory_order_relaxed);\n}\n")
        self.assertEqual(self.errors(good), "")
        errors = self.errors(good.replace("atomic_max_explicit(l", "atomic_fetch_max_explicit(l").replace("add_explicit(d", "min_explicit(d")
                             .replace("(m, x)", "(m, c); atomic_store_explicit(s, 1.0f, memory_order_relaxed)")
                             .replace("a[n]", "a[uint(x[1])]"))
        for found in ("atomic_fetch_max_explicit(device volatile atomic<ulong>*", "atomic_fetch_min_explicit(device volatile at",
                      "simdgroup_load(simdgroup_matrix<float, 8, 8>&, constant ", "array whose size is a variable",
                      "atomic_store_explicit(threadgroup volatile atomic<float>*"):
            self.assertIn("Metal has no " + found, errors)
        self.assertEqual(errors.count("error:"), 5)
        text = "void f(device atomic_uint* x) { atomic_store_explicit(x, 1u, memory_order_release); }"
        self.assertIn("memory_order_release came with MSL 3.2", "".join(lint.errors(tokenize(text), 310)))
        self.assertEqual(lint.errors(tokenize(text), 320), [])

    def test_our_own_shaders_use_what_others_use(self):
        shader = self.shader("kernel void f(device float* x) { x[0] = exp(quad_product(x[0])); }\n")
        self.assertEqual(strict_errors(shader), [])
        self.assertRegex("".join(strict_errors(shader, own=True)), r":3: error: quad_product\(float\) is in Metal's spec[^\n]*$")

    def test_lambdas_of_a_later_version(self):
        tokens = tokenize("void f() { auto g = [=](float a) { return a; }; }")
        self.assertEqual(lint.errors(tokens, 320), [])

    def test_both_targets_compile(self):
        with tempfile.TemporaryDirectory() as folder:
            for arch in ("x86_64", "aarch64", "arm64"):
                compile_object(self.shader(self.GOOD), f"{folder}/{arch}.o", "msl_library", arch)
            compile_ptx(self.shader(self.GOOD), folder + "/a.ptx")
            with open(folder + "/a.ptx", encoding="utf-8") as f:
                self.assertIn(".entry msl_entry_0", f.read())

    def test_what_ptx_would_refuse_is_found_without_code(self):
        self.assertEqual(ptx_errors(self.shader(self.GOOD)), [])
        kernel = "template <int N> kernel void f(device float* x [[buffer(0)]]) { %s x[0] = N; }\n" \
            'template [[host_name("f4")]] kernel void f<4>(device float*);\n'
        for fault, said in (("static_assert(N < 4);", "static assertion failed"), ("x.nothing();", "member reference")):
            self.assertIn(said, "".join(ptx_errors(self.shader(kernel % fault))))


class MachO(unittest.TestCase):
    """What macOS loads; elsewhere linked by lld, with the least that stands for an SDK."""
    KERNEL = ("#include <metal_stdlib>\nusing namespace metal;\n"
              "kernel void f(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]]) {\n"
              "  threadgroup_barrier(mem_flags::mem_none);\n  x[i] = simd_sum(x[i]);\n}\n")
    SYSTEM = ("--- !tapi-tbd\ntbd-version: 4\ntargets: [ arm64-macos ]\n"
              "install-name: '/usr/lib/libSystem.B.dylib'\nexports:\n  - targets: [ arm64-macos ]\n"
              "    symbols: [ _memcpy, _memset, dyld_stub_binder ]\n...\n")

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = folder.name
        self.write("f.metal", self.KERNEL)
        if sys.platform != "darwin":
            self.write("sdk/usr/lib/libSystem.tbd", self.SYSTEM)
            environment = unittest.mock.patch.dict(os.environ, SDKROOT=self.path + "/sdk")
            environment.start()
            self.addCleanup(environment.stop)

    def write(self, name, text):
        path = os.path.join(self.path, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)

    def llvm(self, name, *arguments):
        tool = subprocess.run([CLANG, "-print-prog-name=llvm-" + name], check=True, capture_output=True, text=True)
        return subprocess.run([tool.stdout.strip(), *arguments], check=True, capture_output=True, text=True).stdout

    def library(self, instrument):
        out = self.path + "/f.so"
        compile_shared(Shader(self.path + "/f.metal"), out, out + ".dSYM", arch="arm64", instrument=instrument)
        return out

    def test_the_executor_is_found_in_the_program(self):
        for instrument in (False, True):
            out = self.library(instrument)
            names = self.llvm("nm", "-m", out)
            self.assertRegex(names, r"external _msl_library")
            missing = [line for line in names.splitlines() if "(undefined)" in line and "(from libSystem)" not in line]
            self.assertIn("_msl_threadgroup_barrier", "".join(missing))
            for line in missing:
                self.assertRegex(line, r" _(msl|__sanitizer_cov|__ubsan_handle)_\w+ \(dynamically looked up\)")
            loaded = self.llvm("objdump", "--macho", "--dylibs-used", out).splitlines()[1:]
            self.assertEqual([line.split()[0] for line in loaded if "libSystem" not in line and out not in line], [])

    def test_lines_are_kept_when_the_object_is_gone(self):
        out = self.library(True)
        entry = next(line for line in self.llvm("nm", out).splitlines() if re.search(r" T __Z1f", line))
        self.assertRegex(self.llvm("symbolizer", "--obj=" + out, "0x" + entry.split()[0]), r"f\.metal:[34]:")
        self.assertEqual(sorted(n for n in os.listdir(self.path) if n.startswith("f.")), ["f.metal", "f.so", "f.so.dSYM"])


if __name__ == "__main__":
    unittest.main()
