"""The sentences of the phantom's reports, with alternatives in [one|two] and slots in {braces}.

Not copied from reports, and not how a sentence is chosen and filled (report.py).
"""

STOCK = (
    (
        "The heart is normal in size. The mediastinum is unremarkable. The lungs are clear.",
        "No acute disease.",
    ),
    (
        "Heart size and mediastinal contours are within normal limits. No focal consolidation, pleural effusion, or "
        "pneumothorax. Visualized XXXX structures are intact.",
        "No acute cardiopulmonary abnormality.",
    ),
    (
        "The lungs are clear bilaterally. Specifically, no evidence of focal consolidation, pneumothorax, or pleural "
        "effusion. Cardiomediastinal silhouette is unremarkable. Visualized osseous structures are without acute "
        "abnormality.",
        "No acute cardiopulmonary process.",
    ),
    (
        "Lungs are clear. No pleural effusions or pneumothoraces. Heart and mediastinum of normal size and contour.",
        "Normal chest x-XXXX.",
    ),
    (
        "Cardiac and mediastinal contours are within normal limits. Pulmonary vascularity is normal. The lungs are "
        "clear. Bony structures are intact.",
        "Negative chest radiograph.",
    ),
    (
        "",
        "Heart size normal. Lungs clear. No pleural effusion or pneumothorax. No acute cardiopulmonary findings.",
    ),
)

WORDS = {  # how an attribute may be said
    "mild": "[mild|mild|slight|minor]",
    "moderate": "moderate",
    "small": "[small|small|trace]",
    "severe": "[severe|severe|marked|advanced]",
    "marked": "[marked|prominent|pronounced]",
    "large": "[large|large|sizable]",
    "patchy": "[patchy|patchy|ill-defined|hazy]",
    "dense": "[dense|dense|confluent|lobar]",
    "single": "",
    "multiple": "[multiple|several]",
    "single-lead": "[single-lead|single lead|single-chamber]",
    "dual-lead": "[dual-lead|dual lead|dual-chamber]",
    "upper": "upper [lobe|lobe|lung|lung zone]",
    "middle": "[mid lung|mid lung zone|middle lobe|midlung]",
    "left middle": "[mid lung|mid lung zone|lingula|midlung]",
    "lower": "[lower lobe|lower lobe|lung base|lower lung|base]",
}

# label: (sentences of the findings section, phrases of the impression)
TEMPLATES = {
    "cardiomegaly": (
        "[There is|Noted is] {amount} [cardiomegaly|enlargement of the heart|enlargement of the cardiac "
        "silhouette].|The [heart|cardiac silhouette] is {amountly} enlarged.|{amount} cardiac enlargement [is "
        "present|is seen|is noted].",
        "{amount} cardiomegaly[| without overt failure]|{amount} enlargement of the [heart|cardiac silhouette]",
    ),
    "emphysema": (
        "[The lungs are|Lungs are|Both lungs are] {amountly} [hyperinflated|hyperexpanded|hyperlucent] with "
        "flattened [hemidiaphragms|diaphragms][, compatible with emphysema|, consistent with emphysema|].|{amount} "
        "[emphysematous changes|emphysema|hyperinflation] [with flattening of the diaphragms|in both lungs|"
        "bilaterally].|[There is|Noted is] {amount} [hyperexpansion|hyperinflation] [of the lungs|of both lungs], "
        "[suggesting|consistent with|which may represent] [COPD|emphysema|obstructive lung disease].",
        "{amount} [emphysema|emphysematous change|COPD]|{amount} hyperinflation [suggesting|compatible with] [COPD|"
        "emphysema]",
    ),
    "fibrosis": (
        "[There are|Noted are|Again seen are] {amount} [reticular|interstitial|coarse reticular] [opacities|"
        "markings] {in zones}[, suggesting fibrosis|, consistent with fibrosis|, possibly chronic interstitial lung "
        "disease].|{amount} [interstitial fibrosis|fibrotic change|reticular fibrosis] {in zones}[| is present| is "
        "noted].|[Coarsened|Increased] interstitial markings {in zones}, {amount}, [compatible with|suggestive of] "
        "fibrosis.",
        "{amount} [pulmonary|interstitial] fibrosis {in zones}|{amount} [chronic interstitial|fibrotic] changes "
        "{in zones}",
    ),
    "edema": (
        "[There is|Noted is] {amount} [pulmonary edema|perihilar edema|interstitial and alveolar edema].|{amount} "
        "[perihilar opacities|bilateral perihilar airspace opacities] with [vascular congestion|indistinct "
        "vessels], [consistent with|compatible with|likely] [pulmonary edema|edema].|[Vascular congestion|Vascular "
        "engorgement] with [Kerley lines|perihilar haze][, compatible with|, suggesting] {amount} [edema|pulmonary "
        "edema].",
        "{amount} pulmonary edema[|, likely cardiogenic]|[Findings of|Findings suggest] {amount} [CHF|pulmonary "
        "edema|edema]",
    ),
    "consolidation": (
        "[There is|Noted is|Again seen is] {a}{amount} [opacity|airspace opacity|consolidation|infiltrate] in the "
        "{where}[|, concerning for pneumonia|, which may represent pneumonia|, possibly pneumonia].|{amount} "
        "[airspace disease|consolidation|airspace opacity] [in the|within the|involving the] {where} [is present|is "
        "seen|may represent pneumonia|is suspicious for infection].|The {where} [shows|demonstrates|contains] "
        "{a}{amount} [airspace opacity|consolidation|infiltrate][|, likely infectious|, possible pneumonia].",
        "{amount} {where} [consolidation|airspace disease|infiltrate|opacity][|, possibly pneumonia|, concerning "
        "for pneumonia]|[Pneumonia|Probable pneumonia] in the {where}",
    ),
    "atelectasis": (
        "[There is|Noted is] {amount} [linear|platelike|subsegmental|bandlike] atelectasis {in the where}.|{amount} "
        "[linear|platelike|bandlike|streaky] opacities {in the where}[, likely atelectasis|, compatible with "
        "atelectasis|, may represent atelectasis or scarring].|[Platelike|Discoid|Subsegmental] atelectasis, "
        "{amount}, {in the where}.",
        "{amount} [atelectasis|subsegmental atelectasis|linear atelectasis] {in the where}",
    ),
    "mass": (
        "[There is|Noted is] {a}{measure} [mass|rounded mass|masslike opacity] in the {where}[|, suspicious for "
        "malignancy|, concerning for neoplasm].|{a}[rounded |lobulated |large ]mass in the {where} [measures|"
        "measures approximately|is] {measure}.|{measure} {where} [mass|masslike opacity][ is present| is seen|, "
        "which may represent neoplasm].",
        "{measure} {where} mass[|, suspicious for malignancy|. CT is recommended]|[Mass|Large mass] in the "
        "{where}, {measure}",
    ),
    "nodule": (
        "[There is|Noted is] {a}{measure} [nodule|pulmonary nodule|nodular opacity] in the {where}.|{a}[rounded |"
        "solitary |][nodule|nodular density] [projects over|overlies|is seen in] the {where}, [measuring|"
        "approximately|about] {measure}.|{measure} {where} [nodule|nodular opacity][ is present| is seen|, "
        "indeterminate].",
        "{measure} {where} [nodule|pulmonary nodule][|, indeterminate|. Recommend CT]|[Pulmonary nodule|Nodule] in "
        "the {where}, {measure}",
    ),
    "calcified_granuloma": (
        "[There {is}|Noted {is}] {a}{amount} calcified [granuloma|nodule]{s} in the {where}.|{amount} calcified "
        "granuloma{s} {is} [present|seen|noted] in the {where}.|{amount} [dense|calcified] [nodule|granuloma]{s} in "
        "the {where}, [consistent with|likely sequela of] [old|prior] granulomatous disease.",
        "{amount} calcified granuloma{s} in the {where}|[Old|Prior] granulomatous disease of the {where}",
    ),
    "pleural_effusion": (
        "[There {is}|Noted {is}] {a}{amount} {side} [pleural effusion|effusion]{s}.|{amount} {side} pleural "
        "effusion{s} [{is} present|{is} seen|{is} noted|with blunting of the costophrenic angle{s}].|[Blunting|"
        "Obscuration] of the {side} costophrenic angle{s}, [compatible with|consistent with|likely] {a}{amount} "
        "[effusion|pleural effusion]{s}.",
        "{amount} {side} [pleural effusion|effusion]{s}",
    ),
    "pneumothorax": (
        "[There is|Noted is] {a}{amount} {side} [pneumothorax|apical pneumothorax].|{amount} {side} pneumothorax "
        "[is present|is seen|is noted|with visible pleural line].|{a}pleural line [is visible|is seen] in the "
        "{side} [hemithorax|chest], [indicating|consistent with] {a}{amount} pneumothorax.",
        "{amount} {side} pneumothorax",
    ),
    "sternotomy_wires": (
        "[Median sternotomy|Sternotomy|Intact sternotomy|Midline sternal] wires [are present|are noted|are seen|"
        "overlie the mediastinum].|[Patient is status post|Status post|Postoperative changes of] [median sternotomy|"
        "sternotomy].|[There are|Noted are] [midline|median] sternotomy wires.",
        "[Prior|Previous|Status post] [median sternotomy|sternotomy]",
    ),
    "endotracheal_tube": (
        "[Endotracheal tube|ET tube|Endotracheal tube tip|ETT] [is|terminates|lies] {depth}.|[There is|Noted is] "
        "{a}[endotracheal|ET] tube, [the tip|its tip] {depth}.|[Patient is|The patient is] intubated, [tube tip|"
        "tip] {depth}.",
        "[Endotracheal|ET] tube {depth}",
    ),
    "enteric_tube": (
        "[Enteric|Nasogastric|NG|Feeding] tube [tip|terminates|ends] {end}.|[There is|Noted is] {a}[nasogastric|"
        "enteric|NG] tube with [tip|the tip] {end}.|[Nasogastric|Enteric|Orogastric] tube [courses inferiorly|"
        "descends], [tip|its tip] {end}.",
        "[Enteric|Nasogastric|NG] tube {end}",
    ),
    "central_line": (
        "{side} {line} [tip|terminates|ends] [in|at|over] the [SVC|superior vena cava|cavoatrial junction].|[There "
        "is|Noted is] {a}{side} {line} with [tip|its tip] in the [SVC|superior vena cava|lower SVC].|{side} {line} "
        "[is in place|is noted|is present][| with tip in the SVC| with tip over the superior vena cava].",
        "{side} {line} [in place|in satisfactory position|with tip in the SVC]",
    ),
    "port": (
        "{side} [chest|chest wall|subclavian] [port|Port-A-Cath|infusion port] [tip|terminates|ends] [in|over] the "
        "[SVC|superior vena cava].|[There is|Noted is] {a}{side} [chest port|Port-A-Cath|Mediport] [in place|with "
        "tip in the SVC|with catheter tip at the cavoatrial junction].|{side} [Port-A-Cath|chest port|MediPort] [is "
        "present|is noted|in place].",
        "{side} [chest port|Port-A-Cath] [in place|in satisfactory position|with tip in the SVC]",
    ),
    "pacemaker": (
        "[There is|Noted is] {a}{side} [chest|chest wall|subclavian] {amount} [pacemaker|pacing device|cardiac "
        "device].|{side} {amount} [pacemaker|pacer|cardiac pacemaker] [is in place|is present|is noted|with intact "
        "leads].|{amount} [pacemaker|pacer] [overlies|projects over] the {side} chest[|, leads in expected "
        "position].",
        "{side} {amount} [pacemaker|pacing device] [in place|]",
    ),
}

INCIDENTAL = {
    "large_habitus": (
        "[Exam|Examination|The study] is limited by [body habitus|large body habitus|overlying soft "
        "tissue].|[Prominent|Abundant] overlying soft tissues [limit evaluation|]."
    ),
    "low_volumes": (
        "[Low lung volumes|Lung volumes are low|Shallow inspiration] [with bronchovascular crowding|].|[The "
        "lungs are|Lungs are] [hypoinflated|poorly inflated][| with crowding of the vessels]."
    ),
    "portable": (
        "[Portable|AP portable|Single portable AP] [view|radiograph] [of the chest|]. [Monitoring leads|ECG "
        "leads|External leads] overlie the chest.|[Monitoring|EKG|Cardiac monitoring] leads [overlie|project "
        "over] the [chest|thorax]."
    ),
    "rotated_left": "[The patient is|Patient is] rotated[| to the left].",
    "rotated_right": "[The patient is|Patient is] rotated[| to the right].",
    "degenerative_spine": (
        "[There are|Noted are|Mild|Multilevel] degenerative changes [of|in] the [thoracic "
        "spine|spine].|[Thoracic spondylosis is|Multilevel osteophytes are|Endplate osteophytes are] seen."
    ),
    "aortic_calcification": (
        "[Atherosclerotic calcification|Calcification|Calcified atherosclerosis] of the aortic [arch|knob].|The "
        "aortic [arch|knob] is calcified."
    ),
}

OPACITIES = ("consolidation", "edema", "mass", "atelectasis")
ACUTE = (*OPACITIES, "nodule", "pleural_effusion", "pneumothorax")
LUNG = (*OPACITIES, "nodule", "fibrosis", "calcified_granuloma", "emphysema")
# what is denied or called normal, and the labels and incidentals beside which it would be untrue
NEGATIVES = (
    ("[pneumothorax|pneumothorax|pneumothoraces]", ("pneumothorax",)),
    ("[pleural effusion|pleural effusion|effusion|large pleural effusion]", ("pleural_effusion",)),
    (
        "[focal consolidation|focal airspace disease|focal airspace opacity|focal infiltrate]",
        OPACITIES,
    ),
    ("[pulmonary edema|overt edema|vascular congestion]", ("edema",)),
    (
        "[suspicious nodule|pulmonary nodule or mass|suspicious pulmonary mass]",
        ("nodule", "mass", "calcified_granuloma"),
    ),
    ("[acute bony abnormality|acute osseous abnormality|displaced rib fracture]", ()),
)
NORMAL = (
    (
        "[Heart size is normal|The heart is normal in size|Heart size within normal limits|Normal heart size|The "
        "cardiac silhouette is normal in size].",
        ("cardiomegaly",),
    ),
    (
        "[The mediastinum is unremarkable|Mediastinal contours are normal|Mediastinal contours are within normal "
        "limits|Normal mediastinal contour].",
        (),
    ),
    (
        "[The lungs are|Lungs are|Both lungs are] [clear|clear bilaterally|well expanded and clear|grossly clear].",
        (*LUNG, "pneumothorax", "pleural_effusion", "low_volumes"),
    ),
    (
        "[Pulmonary vascularity is|Pulmonary vasculature is|Vascularity is] "
        "[normal|unremarkable|within normal limits].",
        ("edema", "emphysema"),
    ),
    (
        "[Osseous structures|Bony structures|Visualized bones|Visualized osseous structures] [are intact|are "
        "unremarkable|are without acute abnormality].",
        ("degenerative_spine",),
    ),
    (
        "[Trachea is midline|The trachea is midline].",
        ("rotated_left", "rotated_right", "endotracheal_tube"),
    ),
)
TECHNIQUE = (
    "[Frontal|Single frontal|One frontal] [view|radiograph|image] of the chest [is|was] "
    "[submitted|obtained|reviewed]."
)
NOTHING_ACUTE = (
    "No [acute|acute or active] [cardiopulmonary|cardiopulmonary|intrathoracic|pulmonary] "
    "[abnormality|process|disease|findings]"
)
MAY_BE_REMOVED = [
    "silhouette",
    "contours",
    "structures",
    "vascularity",
    "evidence",
    "noted",
    "present",
    "visualized",
    "pulmonary",
    "osseous",
    "bony",
    "seen",
    "unremarkable",
]

# Words by which an attribute enters a sentence in another form than WORDS has it.
ADVERBS = {
    "mild": "[mildly|slightly]",
    "moderate": "moderately",
    "severe": "[severely|markedly]",
    "marked": "[markedly|prominently]",
}
BOTH_SIDES = {
    "lower": "[both lung bases|both lower lobes|the lung bases]",
    "middle": "both mid lungs",
}
IN_ZONES = {
    "upper": "[in the upper lobes|in both upper lungs|of the upper lung zones]",
    "lower": "[at the lung bases|in both lower lobes|at both bases]",
    "diffuse": "[diffusely|throughout both lungs|in both lungs diffusely]",
}
DEPTHS = {
    "high": "[high, at the thoracic inlet|high above the carina|at the level of the clavicles]",
    "mid": "[in good position above the carina|in the mid trachea|4 cm above the carina]",
    "low": "[low, at the carina|just above the carina|low, near the carina]",
}
ENDS = {
    "stomach": "[in the stomach|below the diaphragm|in the gastric body]",
    "esophagus": "[in the distal esophagus|above the diaphragm in the esophagus|in the esophagus]",
}
LINES = {
    "jugular": "[internal jugular catheter|IJ catheter|jugular central line]",
    "subclavian": "[subclavian catheter|subclavian central line|subclavian line]",
    "picc": "[PICC|PICC line|PICC catheter]",
}
