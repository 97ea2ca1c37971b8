"""What does not work with types of the zoo, and why: {check: {what the refusal says: the types}}.

The tests fail where an exception is missing, and where one is no longer needed.
"""

EXCEPTIONS: dict[str, dict[str, str]] = {
    "build": {
        "another package is needed": (
            "dinat edgetam edgetam_vision_model gemma3n gemma3n_vision "
            "higgs_audio_v2_tokenizer layoutlmv2 pe_audio_video pe_audio_video_encoder "
            "pe_video pe_video_encoder"
        ),
        "the generic configuration does not fit it": (
            "cvt diffusion_gemma dots3_note granite4_vision lw_detr moonshine_streaming "
            "musicgen musicgen_melody neomme perception_lm pp_ocrv6_medium_det "
            "t5gemma2_encoder voxtral_realtime_text"
        ),
        "the noise of discovery makes it speak for a minute": "vits",
    },
    "inputs": {
        "its inputs cannot be guessed": (
            "autoformer canine decision_transformer edgetam_video gemma3n_audio gemma4_vision "
            "glm_image_vqmodel informer mimi_decoder muse_glimmer_assistant omdet-turbo "
            "oneformer patchtsmixer patchtst perceiver pocket_tts_audio_tokenizer_decoder "
            "sam2 sam2_video sam3_tracker sam3_tracker_video sam3_video seggpt "
            "time_series_transformer timesfm timesfm2_5 vibevoice_acoustic_tokenizer_decoder "
            "vibevoice_acoustic_tokenizer_encoder"
        ),
        "the generic configuration or the guessed inputs do not fit it": (
            "bark blip_2_qformer blt clap clvp d_fine deepseek_ocr2 deimv2 depth_pro dia "
            "efficientloftr efficientnet ernie4_5_vl_moe fastspeech2_conformer_with_hifigan "
            "fun_asr_nano_encoder gemma4_audio granite_speech5_ctc granite_speech5_encoder "
            "idefics inkling2_vision kosmos-2 kyutai_speech_to_text levit lightglue lxmert "
            "mimi minicpm_ocr_vision minicpmv4_7_vision mistral4 nemo_speechlm "
            "nemotron3_5_transcribe_asr_audio nemotron3_5_transcribe_audio "
            "nemotron3_5_transcribe_word_timestamp nemotron3_diarization "
            "nemotron3_diarization_audio neucodec pi0 pp_doclayout_v3 pp_doclayout_v4 "
            "pp_ocrv5_mobile_rec pp_ocrv5_server_rec pp_ocrv6_small_det qwen3_asr_encoder "
            "rt_detr rt_detr_v2 sam sam2_hiera_det_model sam2_vision_model sam_hq sapiens2 "
            "speecht5 textnet tvp uvdoc xcodec xcodec2 xlstm zamba zamba2"
        ),
    },
    "attention": {
        "no softmax of three or more dimensions": (
            "bit convnext convnextv2 dac dinov3_convnext encodec falcon_mamba fnet focalnet "
            "hgnet_v2 mamba mamba2 mobilenet_v1 mobilenet_v2 mra muse_spark_audio poolformer "
            "pp_ocrv6_small_rec pp_ocrv6_tiny_rec reformer regnet resnet rwkv "
            "sam3_lite_text_text_model univnet vibevoice_acoustic_tokenizer yoso"
        ),
    },
    "discover": {
        "No attention was seen": "mobilevitv2 sew-d swiftformer",
        "head by head": "xlnet",
    },
    "examples": {
        "the text has fewer places for a picture than there are features of it": "blip-2",
    },
    "prune": {
        "(BitNetRMSNorm) before they are projected": "bitnet",
        "BigBirdModel exchanges its attention modules when a text is short: set attention_typ": (
            "big_bird"
        ),
        "BigBirdPegasusModel exchanges its attention modules when a text is short: set attent": (
            "bigbird_pegasus"
        ),
        "its code does not do with fewer heads": "aimv2 aimv2_vision_model",
        "torch's multi-head attention cannot hold fewer channels than its embedding": (
            "aria aya_vision"
        ),
    },
}
