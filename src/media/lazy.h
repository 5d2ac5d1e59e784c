/*
 * FFmpeg's large libraries, opened when a picture or video is first read or written. Linking them would make every start
 * of a program load more than a hundred libraries that most runs have no use for.
 *
 * Included instead of the headers of libavcodec, libavfilter and libavformat. A function that is missing here does not
 * link, for these libraries are not on the linker's command line.
 */
#ifndef ZOE_MEDIA_LAZY_H
#define ZOE_MEDIA_LAZY_H

#include <libavcodec/avcodec.h>
#include <libavfilter/avfilter.h>
#include <libavfilter/buffersink.h>
#include <libavfilter/buffersrc.h>
#include <libavformat/avformat.h>

#include "base/context.h"

/* Opens the libraries if they are not open yet; to be called before any of the functions below. */
int zoe_av_load(zoe_context *ctx);

#define ZOE_AV_FUNCTIONS(F)                                                                                                \
    F(avcodec, av_packet_alloc)                                                                                            \
    F(avcodec, av_packet_free)                                                                                             \
    F(avcodec, av_packet_rescale_ts)                                                                                       \
    F(avcodec, av_packet_unref)                                                                                            \
    F(avcodec, avcodec_alloc_context3)                                                                                     \
    F(avcodec, avcodec_find_decoder)                                                                                       \
    F(avcodec, avcodec_find_encoder_by_name)                                                                               \
    F(avcodec, avcodec_free_context)                                                                                       \
    F(avcodec, avcodec_get_name)                                                                                           \
    F(avcodec, avcodec_open2)                                                                                              \
    F(avcodec, avcodec_parameters_from_context)                                                                            \
    F(avcodec, avcodec_parameters_to_context)                                                                              \
    F(avcodec, avcodec_receive_frame)                                                                                      \
    F(avcodec, avcodec_receive_packet)                                                                                     \
    F(avcodec, avcodec_send_frame)                                                                                         \
    F(avcodec, avcodec_send_packet)                                                                                        \
    F(avfilter, av_buffersink_get_frame)                                                                                   \
    F(avfilter, av_buffersrc_add_frame_flags)                                                                              \
    F(avfilter, avfilter_get_by_name)                                                                                      \
    F(avfilter, avfilter_graph_alloc)                                                                                      \
    F(avfilter, avfilter_graph_config)                                                                                     \
    F(avfilter, avfilter_graph_create_filter)                                                                              \
    F(avfilter, avfilter_graph_free)                                                                                       \
    F(avfilter, avfilter_graph_parse_ptr)                                                                                  \
    F(avfilter, avfilter_inout_alloc)                                                                                      \
    F(avfilter, avfilter_inout_free)                                                                                       \
    F(avformat, av_find_best_stream)                                                                                       \
    F(avformat, av_interleaved_write_frame)                                                                                \
    F(avformat, av_probe_input_buffer2)                                                                                    \
    F(avformat, av_read_frame)                                                                                             \
    F(avformat, av_write_trailer)                                                                                          \
    F(avformat, avformat_alloc_context)                                                                                    \
    F(avformat, avformat_alloc_output_context2)                                                                            \
    F(avformat, avformat_close_input)                                                                                      \
    F(avformat, avformat_find_stream_info)                                                                                 \
    F(avformat, avformat_free_context)                                                                                     \
    F(avformat, avformat_new_stream)                                                                                       \
    F(avformat, avformat_open_input)                                                                                       \
    F(avformat, avformat_write_header)                                                                                     \
    F(avformat, avio_alloc_context)                                                                                        \
    F(avformat, avio_closep)                                                                                               \
    F(avformat, avio_context_free)                                                                                         \
    F(avformat, avio_open)

#define ZOE_AV_MEMBER(library, name) __typeof__(name) *name;
typedef struct zoe_av_functions {
    ZOE_AV_FUNCTIONS(ZOE_AV_MEMBER)
} zoe_av_functions;

/* Filled once by zoe_av_load(), never changed after. */
extern zoe_av_functions zoe_av;

#define av_packet_alloc                 zoe_av.av_packet_alloc
#define av_packet_free                  zoe_av.av_packet_free
#define av_packet_rescale_ts            zoe_av.av_packet_rescale_ts
#define av_packet_unref                 zoe_av.av_packet_unref
#define avcodec_alloc_context3          zoe_av.avcodec_alloc_context3
#define avcodec_find_decoder            zoe_av.avcodec_find_decoder
#define avcodec_find_encoder_by_name    zoe_av.avcodec_find_encoder_by_name
#define avcodec_free_context            zoe_av.avcodec_free_context
#define avcodec_get_name                zoe_av.avcodec_get_name
#define avcodec_open2                   zoe_av.avcodec_open2
#define avcodec_parameters_from_context zoe_av.avcodec_parameters_from_context
#define avcodec_parameters_to_context   zoe_av.avcodec_parameters_to_context
#define avcodec_receive_frame           zoe_av.avcodec_receive_frame
#define avcodec_receive_packet          zoe_av.avcodec_receive_packet
#define avcodec_send_frame              zoe_av.avcodec_send_frame
#define avcodec_send_packet             zoe_av.avcodec_send_packet
#define av_buffersink_get_frame         zoe_av.av_buffersink_get_frame
#define av_buffersrc_add_frame_flags    zoe_av.av_buffersrc_add_frame_flags
#define avfilter_get_by_name            zoe_av.avfilter_get_by_name
#define avfilter_graph_alloc            zoe_av.avfilter_graph_alloc
#define avfilter_graph_config           zoe_av.avfilter_graph_config
#define avfilter_graph_create_filter    zoe_av.avfilter_graph_create_filter
#define avfilter_graph_free             zoe_av.avfilter_graph_free
#define avfilter_graph_parse_ptr        zoe_av.avfilter_graph_parse_ptr
#define avfilter_inout_alloc            zoe_av.avfilter_inout_alloc
#define avfilter_inout_free             zoe_av.avfilter_inout_free
#define av_find_best_stream             zoe_av.av_find_best_stream
#define av_interleaved_write_frame      zoe_av.av_interleaved_write_frame
#define av_probe_input_buffer2          zoe_av.av_probe_input_buffer2
#define av_read_frame                   zoe_av.av_read_frame
#define av_write_trailer                zoe_av.av_write_trailer
#define avformat_alloc_context          zoe_av.avformat_alloc_context
#define avformat_alloc_output_context2  zoe_av.avformat_alloc_output_context2
#define avformat_close_input            zoe_av.avformat_close_input
#define avformat_find_stream_info       zoe_av.avformat_find_stream_info
#define avformat_free_context           zoe_av.avformat_free_context
#define avformat_new_stream             zoe_av.avformat_new_stream
#define avformat_open_input             zoe_av.avformat_open_input
#define avformat_write_header           zoe_av.avformat_write_header
#define avio_alloc_context              zoe_av.avio_alloc_context
#define avio_closep                     zoe_av.avio_closep
#define avio_context_free               zoe_av.avio_context_free
#define avio_open                       zoe_av.avio_open

#endif
