// A library with one custom operator for ONNX Runtime: leeway.tests::AddOne, y = x + 1 for a float tensor.
//
//     cc -shared -fPIC -o custom_operator.so custom_operator.c
//
// ONNX Runtime's header (onnxruntime_c_api.h) is not needed: its API is a table of functions to which new versions only
// append. The positions below are those of the header.

#include <stddef.h>
#include <stdint.h>

typedef const void *const *Api;
typedef struct { Api (*get_api)(uint32_t version); } ApiBase;
enum { CREATE_CUSTOM_OP_DOMAIN = 26, CUSTOM_OP_DOMAIN_ADD = 27, ADD_CUSTOM_OP_DOMAIN = 28, GET_TENSOR_MUTABLE_DATA = 51,
       GET_DIMENSIONS_COUNT = 61, GET_DIMENSIONS = 62, GET_TENSOR_SHAPE_ELEMENT_COUNT = 64, GET_TENSOR_TYPE_AND_SHAPE = 65,
       KERNEL_CONTEXT_GET_INPUT = 90, KERNEL_CONTEXT_GET_OUTPUT = 91, RELEASE_TENSOR_TYPE_AND_SHAPE_INFO = 99 };
enum { API_VERSION = 12, FLOAT = 1, MOST_DIMENSIONS = 8 };

// The members of OrtCustomOp up to version 12.
typedef struct CustomOp {
    uint32_t version;
    void *(*create_kernel)(const struct CustomOp *, Api, const void *info);
    const char *(*get_name)(const struct CustomOp *);
    const char *(*get_execution_provider_type)(const struct CustomOp *);
    int (*get_input_type)(const struct CustomOp *, size_t);
    size_t (*get_input_type_count)(const struct CustomOp *);
    int (*get_output_type)(const struct CustomOp *, size_t);
    size_t (*get_output_type_count)(const struct CustomOp *);
    void (*kernel_compute)(void *kernel, void *context);
    void (*kernel_destroy)(void *kernel);
    int (*get_input_characteristic)(const struct CustomOp *, size_t);
    int (*get_output_characteristic)(const struct CustomOp *, size_t);
} CustomOp;

static Api api;

static void *create_kernel(const CustomOp *op, Api of_session, const void *info) { (void)of_session, (void)info; return (void *)op; }
static const char *name(const CustomOp *op) { (void)op; return "AddOne"; }
static const char *provider(const CustomOp *op) { (void)op; return NULL; }
static int type(const CustomOp *op, size_t index) { (void)op, (void)index; return FLOAT; }
static size_t one(const CustomOp *op) { (void)op; return 1; }
static int required(const CustomOp *op, size_t index) { (void)op, (void)index; return 0; }
static void destroy(void *kernel) { (void)kernel; }

static void compute(void *kernel, void *context) {
    (void)kernel;
    const void *input = NULL;
    void *output = NULL, *shape = NULL;
    float *from = NULL, *to = NULL;
    int64_t dimensions[MOST_DIMENSIONS];
    size_t rank = 0, elements = 0;
    ((void *(*)(void *, size_t, const void **))api[KERNEL_CONTEXT_GET_INPUT])(context, 0, &input);
    ((void *(*)(const void *, void **))api[GET_TENSOR_TYPE_AND_SHAPE])(input, &shape);
    ((void *(*)(const void *, size_t *))api[GET_DIMENSIONS_COUNT])(shape, &rank);
    if (rank > MOST_DIMENSIONS) rank = MOST_DIMENSIONS;
    ((void *(*)(const void *, int64_t *, size_t))api[GET_DIMENSIONS])(shape, dimensions, rank);
    ((void *(*)(const void *, size_t *))api[GET_TENSOR_SHAPE_ELEMENT_COUNT])(shape, &elements);
    ((void (*)(void *))api[RELEASE_TENSOR_TYPE_AND_SHAPE_INFO])(shape);
    ((void *(*)(void *, size_t, const int64_t *, size_t, void **))api[KERNEL_CONTEXT_GET_OUTPUT])(context, 0, dimensions, rank, &output);
    ((void *(*)(const void *, void **))api[GET_TENSOR_MUTABLE_DATA])(input, (void **)&from);
    ((void *(*)(const void *, void **))api[GET_TENSOR_MUTABLE_DATA])(output, (void **)&to);
    for (size_t i = 0; i < elements; i++) to[i] = from[i] + 1;
}

static const CustomOp add_one = { API_VERSION, create_kernel, name, provider, type, one, type, one, compute, destroy, required, required };

void *RegisterCustomOps(void *options, const ApiBase *base) {
    void *domain = NULL;
    api = base->get_api(API_VERSION);
    void *status = ((void *(*)(const char *, void **))api[CREATE_CUSTOM_OP_DOMAIN])("leeway.tests", &domain);
    if (!status) status = ((void *(*)(void *, const CustomOp *))api[CUSTOM_OP_DOMAIN_ADD])(domain, &add_one);
    if (!status) status = ((void *(*)(void *, void *))api[ADD_CUSTOM_OP_DOMAIN])(options, domain);
    return status;
}
