"""What does not work with types of the zoo, and why: {check: {what the refusal says: the types}}.

The tests fail where an exception is missing, and where one is no longer needed.
"""

EXCEPTIONS: dict[str, dict[str, str]] = {
    "build": {
        "another package is needed": (
            "dinat edgetam edgetam_vision_model gemma3n gemma3n_vision "
            "higgs_audio_v2_tokenizer layoutlmv2 pe_audio_video pe_audio_video_encoder "
            "pe_video pe_video_encoder timm_backbone timm_wrapper"
        ),
        "its windows leave positions of a short sound without a key, so that nothing is a number": (
            "nemotron3_5_asr nemotron_asr_streaming nemotron_asr_streaming_encoder"
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
            "edgetam_video gemma3n_audio gemma4_vision glm_image_vqmodel mimi_decoder "
            "muse_glimmer_assistant omdet-turbo oneformer patchtsmixer "
            "pocket_tts_audio_tokenizer_decoder sam2 sam2_video sam3_tracker "
            "sam3_tracker_video sam3_video seggpt timesfm timesfm2_5 "
            "vibevoice_acoustic_tokenizer_decoder vibevoice_acoustic_tokenizer_encoder"
        ),
        "the generic configuration or the guessed inputs do not fit it": (
            "bark blt clap clvp deepseek_ocr2 depth_pro dia efficientloftr efficientnet "
            "ernie4_5_vl_moe fastspeech2_conformer_with_hifigan fun_asr_nano_encoder "
            "gemma4_audio granite_speech5_ctc granite_speech5_encoder idefics inkling2_vision "
            "kosmos-2 kyutai_speech_to_text levit lightglue mimi minicpm_ocr_vision "
            "minicpmv4_7_vision mistral4 nemo_speechlm nemotron3_5_transcribe_asr_audio "
            "nemotron3_5_transcribe_audio nemotron3_5_transcribe_word_timestamp "
            "nemotron3_diarization nemotron3_diarization_audio neucodec pi0 pp_doclayout_v3 "
            "pp_ocrv5_mobile_rec pp_ocrv5_server_rec pp_ocrv6_small_det qwen3_asr_encoder sam "
            "sam2_hiera_det_model sam2_vision_model sam_hq sapiens2 speecht5 textnet tvp "
            "uvdoc xcodec xcodec2 xlstm zamba zamba2"
        ),
    },
    "attention": {
        "no softmax of three or more dimensions": (
            "autoformer bit convnext convnextv2 dac dinov3_convnext encodec falcon_mamba fnet "
            "focalnet hgnet_v2 mamba mamba2 mobilenet_v1 mobilenet_v2 mra muse_spark_audio "
            "poolformer pp_ocrv6_small_rec pp_ocrv6_tiny_rec reformer regnet resnet rwkv "
            "sam3_lite_text_text_model univnet vibevoice_acoustic_tokenizer yoso"
        ),
    },
    "discover": {
        "No attention was seen": "mobilevitv2 swiftformer",
        "runs where torch computes no gradients": "sew-d",
        "head by head": "xlnet",
    },
    "examples": {
        "give one head set for the whole batch": "jetmoe",
        "give one set for the whole batch": "lighton_ocr mistral3 mistral_large4 pixtral",
        "how long the speech gets depends on the whole batch": "fastspeech2_conformer",
        "its inputs are not laid out example by example": (
            "cohere_compass cohere_compass_vision cosmos3_edge cosmos3_edge_vision "
            "cosmos3_omni exaone4_5 exaone4_5_vision glm46v glm4v glm4v_moe glm4v_moe_vision "
            "glm4v_vision glm5_next glm5_next_vision glm_image_vision glm_ocr glm_ocr_vision "
            "glmga hunyuan_vl hunyuan_vl_vision hyperclovax_vision_v2 kimi_k25 "
            "kimi_k25_vision lfm3_vl lfm3_vl_vision minimax_m3_vl muse_glimmer_vision "
            "muse_spark_vision paddleocr_vl qwen2_5_vl qwen2_5_vl_vision qwen2_vl qwen3_5 "
            "qwen3_5_moe qwen3_5_moe_vision qwen3_5_vision qwen3_vl qwen3_vl_moe "
            "qwen3_vl_moe_vision qwen3_vl_vision qwen4_exp qwen4_exp_vision video_llama_3 "
            "video_llama_3_vision"
        ),
        "the text has fewer places for a picture than there are features of it": (
            "blip-2 instructblip"
        ),
    },
    "gate": {
        "is applied by another module than the one that holds it": (
            "inkling2 inkling2_text inkling_mm_model inkling_text wavlm"
        ),
        "its heads attend in two different ways": "convbert",
        "its heads share rows of the query or key projection, as with a norm across heads": (
            "doge esmc flex_olmo grounding-dino minimax_m2 mm-grounding-dino olmo2 olmo3 "
            "olmo_hybrid olmoe t5gemma2 zaya"
        ),
        "its heads share rows of the value projection, as with a norm across heads": (
            "deepseek_v4 florence2"
        ),
        "what its heads own cannot be told from what earlier layers do": "jetmoe",
    },
    "prune": {
        "(BitNetRMSNorm) before they are projected": "bitnet",
        "(JetMoeParallelExperts) before they are projected": "jetmoe",
        ", which holds its projections, is not called as a module": "squeezebert",
        "gives more than one tensor": "ibert",
        "in different ways": "prophetnet",
        "its code does not do with fewer heads": (
            "dab-detr doge exaone4_5 exaone4_5_vision florence2 grounding-dino lilt "
            "mask2former mm-grounding-dino pvt_v2 table-transformer zaya"
        ),
        "its heads attend in two different ways": "convbert",
        "its heads share rows of the value projection, as with a norm across heads": (
            "deepseek_v4 inkling2 inkling2_text"
        ),
        "torch's function for multi-head attention needs as many channels as its embedding": (
            "wavlm"
        ),
    },
}
