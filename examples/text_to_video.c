/*
 * A video from a text through the C library.
 *
 *     cc text_to_video.c -o text_to_video $(pkg-config --cflags --libs zoetrope)
 *     ./text_to_video MODEL_DIR "A red fox runs through snow" fox.mp4
 */
#include <stdio.h>
#include <zoetrope.h>

static void show(void *user, const zoe_progress *progress) {
    (void)user;
    fprintf(stderr, "%s %d/%d\n", zoe_phase_name(progress->phase), progress->step, progress->steps);
}

static int make(zoe_context *context, const char *dir, const char *prompt, const char *output) {
    zoe_model *model;
    int status = zoe_model_open(context, dir, NULL, &model);
    if (status != ZOE_OK) return status;

    zoe_request request;
    zoe_request_init(model, &request); /* the model's own size, length, steps and guidance */
    request.prompt = prompt;
    request.output = output;
    request.seed = 42;
    request.progress = show;

    zoe_result result;
    status = zoe_generate(model, &request, &result);
    if (status == ZOE_OK) printf("%s: %d frames of %dx%d\n", output, result.frames, result.width, result.height);
    zoe_model_close(model);
    return status;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: %s MODEL_DIR PROMPT OUTPUT\n", argv[0]);
        return 2;
    }
    zoe_context *context;
    if (zoe_context_create(NULL, &context) != ZOE_OK) return 1;
    int status = make(context, argv[1], argv[2], argv[3]);
    if (status != ZOE_OK) fprintf(stderr, "%s: %s\n", zoe_strerror(status), zoe_context_error(context));
    zoe_context_free(context);
    return status == ZOE_OK ? 0 : 1;
}
