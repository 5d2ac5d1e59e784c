/*
 * Latents to frames, frame by frame. The trunk works at the latents' size, where attention sees whole frames; the tail
 * enlarges what it made. In parts of frames the trunk runs first, over the whole clip, and the tail once for each part. The
 * tail may leave its first level to the trunk: parts must see less then of what lies beside them, but more waits on the
 * host.
 */
#include "models/wan/vae_blocks.h"

#define REFERENCE_SIZE   256 /* pixels of a tile */
#define REFERENCE_STRIDE 192
#define FEW_PARTS        6 /* as many take as much of a device as a trunk with two levels */

/* A part of the frames that the trunk makes: the rows and columns that the tail sees, and those that it is for. */
typedef struct wan_part {
    int64_t start[2], end[2], from[2], to[2];
    size_t at; /* bytes in front of it in what is kept of a frame */
} wan_part;

/* What is kept of the trunk's frames on the host: for each part the level's input, if that is needed, and its output. */
typedef struct kept {
    int64_t height, width, frames, count; /* count: frames so far */
    int64_t channels[2];                  /* of input (0: not needed) and output */
    wan_part *parts;
    int64_t part_count;
    char *values;
    size_t bytes;         /* of a frame */
    zoe_tensor moving[2]; /* by turns, on their way: a frame, or what is kept of it for a part */
} kept;

/* One decoding in progress. */
typedef struct decoding {
    zoe_wan_vae *vae;
    zoe_tensor mean, std; /* of the latents */
    bool first;           /* the frame in flight stems from latent frame 0 */
    zoe_film film;

    /* of frames in parts */
    int split;    /* the level behind whose resnets the tail begins */
    bool keeping; /* the trunk is at work */
    kept kept;
    zoe_edges edges;            /* of the part in work; those of a tile are as the frame's */
    int64_t skip[2], wanted[2]; /* packed rows and columns that come first, and then those that the part is for; 0: all */
} decoding;

/* Pixels out of their packing, where a channel counts colour, then column, then row. */
static int emit(decoding *d, const zoe_tensor *x) {
    int64_t patch = d->vae->config.patch;
    zoe_tensor part = *x;
    for (int i = 0; i < 2; i++)
        if (d->wanted[i]) part = zoe_view_slice(&part, 1 + i, d->skip[i], d->wanted[i]);
    const int64_t *s = part.stride;
    zoe_tensor pixels = {.dtype = x->dtype,
                         .rank = 6,
                         .data = part.data,
                         .shape = {1, part.shape[1], patch, part.shape[2], patch, 3},
                         .stride = {s[0], s[1], 1, s[2], patch, patch * patch}};
    return zoe_film_add(&d->film, &pixels);
}

/* ---- levels: from what level 0's resnets make to pixels ---- */

/* The past from the resampling of level `from` to the resnets of level `to`; size: height and width before and after. */
static int begin_levels(decoding *d, int from, int to, int64_t size[2]) {
    zoe_backend *be = d->vae->be;
    wan_coder *coder = &d->vae->decoder;
    for (int i = from; i < to; i++) {
        wan_level *level = &coder->levels[i], *next = level + 1;
        if (level->temporal) ZOE_TRY(zoe_carrier_begin_zero(be, &level->time, size[0], size[1], 0));
        if (level->resample) {
            size[0] *= 2, size[1] *= 2;
            zoe_edges_shrink(&d->edges, size, 1);
        }
        ZOE_TRY(zoe_wan_begin_resnets(be, next->resnets, next->resnet_count, &next->rooms, &d->edges, size));
    }
    return ZOE_OK;
}

/* height, width: of what the resnets of level `from` make */
static int begin_tail(decoding *d, int from, int64_t height, int64_t width) {
    wan_coder *coder = &d->vae->decoder;
    int64_t size[2] = {height, width};
    ZOE_TRY(begin_levels(d, from, ZOE_WAN_VAE_LEVELS - 1, size));
    int64_t room = coder->levels[ZOE_WAN_VAE_LEVELS - 1].rooms.values;
    return zoe_carrier_begin_zero(d->vae->be, &coder->conv_out, size[0], size[1], room);
}

/* x [1, height, width, channels] with the channels in a stride, beside what spread() gives. */
static zoe_tensor channels_of(const zoe_tensor *x, int64_t first, int64_t count, int64_t stride) {
    zoe_tensor part = zoe_view_slice(x, 3, first, count);
    part.stride[3] *= stride;
    return part;
}

/*
 * 2.2: y += x with every channel repeated and spread over the resampled frame's pixels; `at`: which of `frames` frames y
 * is. At inner edges y begins with the second or ends with the first of the two pixels that x's pixel is spread over.
 */
static int add_duplicated(zoe_backend *be, const zoe_edges *edges, const zoe_tensor *x, int64_t frames, int64_t at,
                          zoe_tensor *y) {
    int64_t in = x->shape[3], out = y->shape[3], cells = frames * 4, repeats = out * cells / in;
    for (int64_t cell = 0; cell < 4; cell++) {
        zoe_tensor from = *x, to = *y;
        for (int axis = 0; axis < 2; axis++) { /* every second pixel of y, and those of x that they take */
            int64_t place = axis ? cell % 2 : cell / 2, cut = edges->inner[axis][0], skip = place < cut;
            int64_t start = 2 * skip + place - cut, count = (y->shape[1 + axis] - start + 1) / 2;
            to = zoe_view_slice(&to, 1 + axis, start, count);
            to.stride[1 + axis] *= 2;
            from = zoe_view_slice(&from, 1 + axis, skip, count);
        }
        /* Output channel c takes input channel (c * cells + at * 4 + cell) / repeats; `share` of them take the same. */
        int64_t share = repeats > cells ? repeats / cells : 1, step = repeats > cells ? 1 : cells / repeats;
        int64_t first = repeats > cells ? 0 : (at * 4 + cell) / repeats;
        zoe_tensor source = channels_of(&from, first, out / share, step);
        for (int64_t i = 0; i < share; i++) {
            zoe_tensor part = channels_of(&to, i, out / share, share);
            ZOE_TRY(zoe_op_lincomb(be, &part, 2, (const zoe_tensor *[]){&part, &source}, (float[]){1, 1}));
        }
    }
    return ZOE_OK;
}

static int run_level(decoding *d, int index, const zoe_tensor *x);
static int keep_frame(decoding *d, const zoe_tensor *x, const zoe_tensor *y);

/* Enlarges one frame after time resampling (number `at` of `frames`) and passes it on. `top`: the level's input. */
static int enlarge(decoding *d, int index, const zoe_tensor *x, const zoe_tensor *top, int64_t frames, int64_t at) {
    zoe_backend *be = d->vae->be;
    wan_level *level = &d->vae->decoder.levels[index];
    size_t mark = zoe_arena_mark(be);
    int64_t size[2] = {2 * x->shape[1], 2 * x->shape[2]};
    zoe_tensor y;
    zoe_edges_shrink(&d->edges, size, 1);
    ZOE_TRY(ZOE_NEW(be, &y, be->dtype, 1, size[0], size[1], level->resampled));
    ZOE_TRY(zoe_carrier_enlarge(be, &level->space, &d->edges, &y, x));
    if (d->vae->config.residual) ZOE_TRY(add_duplicated(be, &d->edges, top, frames, at, &y));
    ZOE_TRY(run_level(d, index + 1, &y));
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

/* What a level's resnets made of `top` [1, height, width, channels], through its resampling and all below. */
static int resample(decoding *d, int index, const zoe_tensor *x, const zoe_tensor *top) {
    zoe_backend *be = d->vae->be;
    wan_level *level = &d->vae->decoder.levels[index];
    size_t mark = zoe_arena_mark(be);
    zoe_tensor one;
    if (!level->temporal || d->first) return enlarge(d, index, x, top, 1 + level->temporal, level->temporal);
    ZOE_TRY(ZOE_NEW(be, &one, be->dtype, 1, x->shape[1], x->shape[2], level->out));
    for (int64_t i = 0; i < 2; i++) { /* the channels of one frame, then those of the next */
        zoe_carrier half = level->time;
        half.w = zoe_view_slice(&level->time.w, 0, i * level->out, level->out);
        half.b = zoe_view_slice(&level->time.b, 0, i * level->out, level->out);
        ZOE_TRY(zoe_carrier_run(be, &half, NULL, &one, x, NULL));
        ZOE_TRY(enlarge(d, index, &one, top, 2, i));
    }
    zoe_arena_release(be, mark);
    return zoe_carrier_copy(be, &level->time, x);
}

/* One frame [1, height, width, channels] through this level and all below it; x is used up. */
static int run_level(decoding *d, int index, const zoe_tensor *x) {
    zoe_backend *be = d->vae->be;
    wan_coder *coder = &d->vae->decoder;
    size_t mark = zoe_arena_mark(be);
    zoe_tensor y;
    ZOE_TRY(zoe_check_cancelled(be->ctx));
    if (index == ZOE_WAN_VAE_LEVELS) {
        int64_t size[2] = {x->shape[1], x->shape[2]};
        zoe_edges_shrink(&d->edges, size, 1);
        ZOE_TRY(ZOE_NEW(be, &y, be->dtype, 1, size[0], size[1], coder->conv_out.w.shape[0]));
        ZOE_TRY(zoe_wan_head(be, coder, &coder->levels[index - 1].rooms, &d->edges, x, &y));
        ZOE_TRY(emit(d, &y));
    } else {
        wan_level *level = &coder->levels[index];
        bool keep = d->vae->config.residual && level->resample;
        ZOE_TRY(zoe_wan_resnets(be, level->resnets, level->resnet_count, &level->rooms, &d->edges, keep, x, &y));
        zoe_tensor top = zoe_edges_cut(&d->edges, x, 2 * level->resnet_count);
        if (d->keeping && index == d->split)
            ZOE_TRY(keep_frame(d, &top, &y));
        else
            ZOE_TRY(level->resample ? resample(d, index, &y, &top) : run_level(d, index + 1, &y));
    }
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

/* ---- the trunk ---- */

static int begin_trunk(decoding *d, int64_t height, int64_t width) {
    zoe_backend *be = d->vae->be;
    wan_coder *coder = &d->vae->decoder;
    wan_level *level = &coder->levels[0];
    ZOE_TRY(zoe_carrier_begin_zero(be, &coder->conv_in, height, width, 0));
    ZOE_TRY(zoe_wan_begin_mid(be, coder, height, width));
    return zoe_wan_begin_resnets(be, level->resnets, level->resnet_count, &level->rooms, NULL, (int64_t[]){height, width});
}

/* Latent frame `index`, denormalised: *x what goes into level 0, *y what its resnets make, fresh on the arena. */
static int run_trunk(decoding *d, const zoe_tensor *latents, int64_t index, zoe_tensor *x, zoe_tensor *y) {
    zoe_wan_vae *vae = d->vae;
    zoe_backend *be = vae->be;
    wan_level *level = &vae->decoder.levels[0];
    int64_t channels = latents->shape[0], height = latents->shape[2], width = latents->shape[3];
    zoe_tensor z, quantised;
    zoe_tensor frame = zoe_view_slice(latents, 1, index, 1), from = zoe_view_permute(&frame, (const int[]){1, 2, 3, 0});
    ZOE_TRY(ZOE_NEW(be, &z, be->dtype, 1, height, width, channels));
    ZOE_TRY(ZOE_NEW(be, &quantised, be->dtype, 1, height, width, channels));
    ZOE_TRY(ZOE_NEW(be, x, be->dtype, 1, height, width, level->in));
    ZOE_TRY(zoe_op_copy(be, &z, &from));
    ZOE_TRY(zoe_op_scale_shift(be, &z, &z, &d->std, &d->mean));
    ZOE_TRY(zoe_carrier_run(be, &vae->post_quant, NULL, &quantised, &z, NULL));
    ZOE_TRY(zoe_carrier_run(be, &vae->decoder.conv_in, NULL, x, &quantised, NULL));
    ZOE_TRY(zoe_carrier_copy(be, &vae->decoder.conv_in, &quantised));
    ZOE_TRY(zoe_wan_mid(be, &vae->decoder, x));
    return zoe_wan_resnets(be, level->resnets, level->resnet_count, &level->rooms, NULL, vae->config.residual, x, y);
}

/* ---- clips ---- */

/* Whole frames, or those of a tile. */
static int run_whole(decoding *d, const zoe_tensor *latents) {
    zoe_backend *be = d->vae->be;
    size_t mark = zoe_arena_mark(be);
    ZOE_TRY(begin_trunk(d, latents->shape[2], latents->shape[3]));
    ZOE_TRY(begin_tail(d, 0, latents->shape[2], latents->shape[3]));
    for (int64_t i = 0; i < latents->shape[1]; i++) {
        size_t inner = zoe_arena_mark(be);
        zoe_tensor x, y;
        d->first = i == 0;
        ZOE_TRY(run_trunk(d, latents, i, &x, &y));
        ZOE_TRY(resample(d, 0, &y, &x));
        zoe_arena_release(be, inner);
    }
    zoe_arena_release(be, mark);
    return zoe_film_flush(&d->film);
}

static int run_tiles(decoding *d, const zoe_tensor *latents) {
    const int64_t factor = zoe_wan_vae_space_factor(&d->vae->config), stride = REFERENCE_STRIDE / factor;
    const int64_t *shape = latents->shape;
    int64_t start[2], tile[2];
    for (start[0] = 0; start[0] < shape[2]; start[0] += stride)
        for (start[1] = 0; start[1] < shape[3]; start[1] += stride) {
            zoe_tensor part = *latents;
            for (int i = 0; i < 2; i++) {
                int64_t rest = shape[2 + i] - start[i], size = REFERENCE_SIZE / factor;
                part = zoe_view_slice(&part, 2 + i, start[i], rest < size ? rest : size);
                tile[i] = start[i] / stride;
            }
            ZOE_TRY(zoe_film_next_part(&d->film, tile, start[0] + stride >= shape[2] && start[1] + stride >= shape[3]));
            ZOE_TRY(run_whole(d, &part));
        }
    return ZOE_OK;
}

/* ---- frames in parts ---- */

/* First row (or column) of packed pixels that the tail makes of a part whose first one of the trunk's is `row`, at an inner
 * edge. */
static int64_t first_row(const decoding *d, int64_t row) {
    for (int i = d->split; i < ZOE_WAN_VAE_LEVELS; i++) {
        const wan_level *level = &d->vae->decoder.levels[i];
        if (i > d->split) row += 2 * level->resnet_count;
        if (level->resample) row = 2 * row + 1;
    }
    return row + 1;
}

/* Packed pixels to a row of the trunk's. */
static int64_t scale_of(const decoding *d) {
    return 1 << (ZOE_WAN_VAE_LEVELS - 1 - d->split);
}

/* Rows (or columns) in front of row `row` of the trunk's that the tail must see to make the pixels from there on. */
static int64_t rows_before(const decoding *d, int64_t row) {
    int64_t start = row;
    while (start > 0 && first_row(d, start) > row * scale_of(d)) start--;
    return row - start;
}

/* Rows and columns of `parts` parts (or a few less) with the shortest cuts, for what lies at a cut is computed twice. */
static void choose_grid(int64_t height, int64_t width, int64_t parts, int64_t grid[2]) {
    int64_t shortest = INT64_MAX;
    for (int64_t rows = 1; rows <= parts; rows++) {
        int64_t columns = parts / rows, cuts = (rows - 1) * width + (columns - 1) * height;
        if (rows * columns != parts || rows > height || columns > width || cuts >= shortest) continue;
        shortest = cuts, grid[0] = rows, grid[1] = columns;
    }
}

/* Part `at` of a grid. */
static wan_part part_of(const decoding *d, const int64_t grid[2], const int64_t at[2]) {
    const int64_t size[2] = {d->kept.height, d->kept.width};
    wan_part p = {.at = d->kept.bytes};
    for (int i = 0; i < 2; i++) {
        p.from[i] = size[i] * at[i] / grid[i], p.to[i] = size[i] * (at[i] + 1) / grid[i];
        p.start[i] = p.from[i] - rows_before(d, p.from[i]), p.end[i] = p.to[i] + rows_before(d, size[i] - p.to[i]);
    }
    return p;
}

/* Divides the trunk's frames into `parts` parts, or fewer where there is no room for as many. */
static int divide(decoding *d, const zoe_tensor *latents, int64_t parts) {
    zoe_backend *be = d->vae->be;
    const wan_level *level = &d->vae->decoder.levels[d->split];
    kept *k = &d->kept;
    int64_t grid[2] = {1, 1}, at[2];
    *k = (kept){.height = latents->shape[2] << d->split,
                .width = latents->shape[3] << d->split,
                .frames = latents->shape[1]};
    for (int i = 0; i < d->split; i++)
        if (d->vae->decoder.levels[i].temporal) k->frames = 2 * k->frames - 1;
    k->channels[0] = d->vae->config.residual ? level->in : 0, k->channels[1] = level->out;
    for (; parts > 1; parts--) {
        choose_grid(k->height, k->width, parts, grid);
        if (grid[0] * grid[1] == parts) break;
    }
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, k->parts, grid[0] * grid[1]));
    for (at[0] = 0; at[0] < grid[0]; at[0]++)
        for (at[1] = 0; at[1] < grid[1]; at[1]++) {
            wan_part *p = &k->parts[k->part_count++];
            *p = part_of(d, grid, at);
            int64_t pixels = (p->end[0] - p->start[0]) * (p->end[1] - p->start[1]);
            k->bytes += (size_t)(pixels * (k->channels[0] + k->channels[1])) * zoe_dtype_size(be->dtype);
        }
    return zoe_host_alloc(be, (size_t)k->frames * k->bytes, (void **)&k->values);
}

/* The inputs (which 0) or outputs of a part, in the memory of a frame that is laid out as it is kept. */
static zoe_tensor part_tensor(const decoding *d, const wan_part *p, int which, void *frame) {
    int64_t rows = p->end[0] - p->start[0], columns = p->end[1] - p->start[1];
    const int64_t *channels = d->kept.channels;
    size_t before = p->at + (which ? (size_t)(rows * columns * channels[0]) * zoe_dtype_size(d->vae->be->dtype) : 0);
    return ZOE_TENSOR((char *)frame + before, d->vae->be->dtype, 1, rows, columns, channels[which]);
}

/* Sends a frame of the trunk's to the host, part by part, while the next one is computed. */
static int keep_frame(decoding *d, const zoe_tensor *x, const zoe_tensor *y) {
    zoe_backend *be = d->vae->be;
    kept *k = &d->kept;
    zoe_tensor *all = &k->moving[k->count % 2];
    for (int64_t i = 0; i < k->part_count; i++)
        for (int which = 0; which < 2; which++) {
            const wan_part *p = &k->parts[i];
            if (k->channels[which] == 0) continue;
            zoe_tensor to = part_tensor(d, p, which, all->data);
            zoe_tensor from = zoe_view_slice(which ? y : x, 1, p->start[0], p->end[0] - p->start[0]);
            from = zoe_view_slice(&from, 2, p->start[1], p->end[1] - p->start[1]);
            ZOE_TRY(zoe_op_copy(be, &to, &from));
        }
    ZOE_TRY(zoe_download_end(be));
    return zoe_download_beside(be, k->values + (size_t)k->count++ * k->bytes, all);
}

/* Runs the trunk over the clip and keeps on the host what the tail needs of it. */
static int run_trunks(decoding *d, const zoe_tensor *latents) {
    zoe_backend *be = d->vae->be;
    int64_t size[2] = {latents->shape[2], latents->shape[3]};
    size_t mark = zoe_arena_mark(be);
    d->keeping = true;
    ZOE_TRY(begin_trunk(d, size[0], size[1]));
    ZOE_TRY(begin_levels(d, 0, d->split, size));
    for (int i = 0; i < 2; i++)
        ZOE_TRY(ZOE_NEW(be, &d->kept.moving[i], be->dtype, (int64_t)(d->kept.bytes / zoe_dtype_size(be->dtype))));
    for (int64_t i = 0; i < latents->shape[1]; i++) {
        size_t inner = zoe_arena_mark(be);
        zoe_tensor x, y;
        ZOE_TRY(zoe_check_cancelled(be->ctx));
        d->first = i == 0;
        ZOE_TRY(run_trunk(d, latents, i, &x, &y));
        ZOE_TRY(d->split ? resample(d, 0, &y, &x) : keep_frame(d, &x, &y));
        zoe_arena_release(be, inner);
    }
    d->keeping = false;
    ZOE_TRY(zoe_download_end(be));
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

/* Sends what is kept of frame `index` for a part on its way; *y: what the level's resnets made, *top: its input. */
static int send_kept(decoding *d, const wan_part *p, int64_t index, zoe_tensor *y, zoe_tensor *top) {
    const kept *k = &d->kept;
    const zoe_tensor *all = &k->moving[index % 2];
    wan_part here = *p;
    here.at = 0;
    *y = part_tensor(d, &here, 1, all->data);
    *top = k->channels[0] ? part_tensor(d, &here, 0, all->data) : *y;
    return zoe_upload_begin(d->vae->be, all, k->values + (size_t)index * k->bytes + p->at);
}

/* The tail for a part. */
static int run_tail(decoding *d, const wan_part *p) {
    zoe_backend *be = d->vae->be;
    kept *k = &d->kept;
    int64_t pixels = (p->end[0] - p->start[0]) * (p->end[1] - p->start[1]);
    zoe_tensor y[2], top[2];
    ZOE_TRY(begin_tail(d, d->split, p->end[0] - p->start[0], p->end[1] - p->start[1]));
    for (int i = 0; i < 2; i++) ZOE_TRY(ZOE_NEW(be, &k->moving[i], be->dtype, pixels * (k->channels[0] + k->channels[1])));
    ZOE_TRY(send_kept(d, p, 0, &y[0], &top[0]));
    for (int64_t i = 0; i < k->frames; i++) {
        int now = i % 2, next = !now;
        ZOE_TRY(zoe_upload_end(be));
        if (i + 1 < k->frames) ZOE_TRY(send_kept(d, p, i + 1, &y[next], &top[next]));
        d->first = i == 0;
        ZOE_TRY(resample(d, d->split, &y[now], &top[now]));
    }
    return zoe_film_flush(&d->film);
}

static int run_part(decoding *d, const wan_part *p, bool last) {
    zoe_backend *be = d->vae->be;
    int64_t scale = scale_of(d), size[2] = {d->kept.height, d->kept.width}, at[2];
    size_t mark = zoe_arena_mark(be);
    for (int i = 0; i < 2; i++) {
        d->edges.inner[i][0] = p->start[i] > 0, d->edges.inner[i][1] = p->end[i] < size[i];
        d->skip[i] = p->from[i] * scale - (p->start[i] > 0 ? first_row(d, p->start[i]) : 0);
        d->wanted[i] = (p->to[i] - p->from[i]) * scale;
        at[i] = p->from[i] * scale * d->vae->config.patch;
    }
    ZOE_TRY(zoe_film_next_part(&d->film, at, last));
    ZOE_TRY(run_tail(d, p));
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

static int run_parts(decoding *d, const zoe_tensor *latents, const zoe_tiling *tiling) {
    bool few = !d->vae->be->ops->host_memory && tiling->parts <= FEW_PARTS;
    d->split = (tiling->whole ? tiling->whole : few ? 2 : 1) - 1;
    ZOE_TRY(divide(d, latents, tiling->parts));
    ZOE_TRY(run_trunks(d, latents));
    for (int64_t i = 0; i < d->kept.part_count; i++) ZOE_TRY(run_part(d, &d->kept.parts[i], i == d->kept.part_count - 1));
    return ZOE_OK;
}

/* ---- all ---- */

/* As asked for, or NONE where the reference would not divide frames of this size. */
static zoe_tiling_kind tiling_of(const decoding *d, const zoe_tiling *tiling, const zoe_tensor *latents) {
    int64_t size = REFERENCE_SIZE / zoe_wan_vae_space_factor(&d->vae->config);
    if (tiling->kind == ZOE_TILING_REFERENCE && latents->shape[2] <= size && latents->shape[3] <= size)
        return ZOE_TILING_NONE;
    return tiling->kind;
}

static int run_clip(decoding *d, const zoe_tensor *latents, const zoe_tiling *tiling) {
    zoe_wan_vae *vae = d->vae;
    int64_t channels = vae->config.channels;
    int64_t frames = (latents->shape[1] - 1) * zoe_wan_vae_time_factor(&vae->config) + 1;
    int64_t blend = REFERENCE_SIZE - REFERENCE_STRIDE;
    zoe_tiles tiles = {.size = {REFERENCE_SIZE, REFERENCE_SIZE},
                       .stride = {REFERENCE_STRIDE, REFERENCE_STRIDE},
                       .blend = {blend, blend},
                       .step = vae->config.patch};
    zoe_tiling_kind kind = tiling_of(d, tiling, latents);
    float *statistics;
    ZOE_TRY(ZOE_NEW_ARRAY(vae->be->ctx, statistics, 2 * channels));
    for (int64_t i = 0; i < channels; i++) {
        statistics[i] = (float)vae->config.mean[i];
        statistics[channels + i] = (float)vae->config.std[i];
    }
    int status = zoe_nn_from_host(vae->be, &d->mean, ZOE_F32, 1, &channels, statistics);
    if (status == ZOE_OK) status = zoe_nn_from_host(vae->be, &d->std, ZOE_F32, 1, &channels, statistics + channels);
    zoe_free(vae->be->ctx, statistics);
    ZOE_TRY(status);
    if (kind == ZOE_TILING_NONE) return run_whole(d, latents);
    ZOE_TRY(zoe_film_divide(&d->film, frames, kind == ZOE_TILING_REFERENCE ? &tiles : NULL));
    return kind == ZOE_TILING_REFERENCE ? run_tiles(d, latents) : run_parts(d, latents, tiling);
}

int zoe_wan_vae_decode(zoe_wan_vae *vae, const zoe_tensor *latents, const zoe_tiling *tiling, zoe_frame_sink sink,
                       void *user) {
    zoe_backend *be = vae->be;
    int64_t factor = zoe_wan_vae_space_factor(&vae->config);
    size_t mark = zoe_arena_mark(be);
    decoding d = {.vae = vae};
    zoe_film_open(be, latents->shape[2] * factor, latents->shape[3] * factor, true, sink, user, &d.film);
    int status = zoe_weights_acquire(vae->weights, ZOE_WAN_VAE_DECODER_UNIT);
    if (status == ZOE_OK) {
        status = run_clip(&d, latents, tiling);
        status = zoe_weights_release(vae->weights, ZOE_WAN_VAE_DECODER_UNIT, status);
    }
    zoe_arena_release(be, mark);
    zoe_film_close(&d.film);
    if (status < 0) zoe_upload_end(be), zoe_download_end(be); /* it may have failed with a frame on its way */
    zoe_host_free(be, d.kept.values);
    zoe_free(be->ctx, d.kept.parts);
    return status;
}
