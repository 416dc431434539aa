"""How the page looks: light and dark, wide and narrow, on paper too."""

STYLE = """
:root{color-scheme:light dark;--paper:#f4f4f1;--card:#fff;--ink:#222;--faint:#67675f;--line:#dddcd5;
--accent:#b3380f;--soft:#fbeee8;--loss:#2563a8;--dots:#2563a877;--held:#b3380f;--rate:#7c8a3a;--mark:#a9a89f}
@media (prefers-color-scheme:dark){:root{--paper:#17181a;--card:#202225;--ink:#e9e8e3;--faint:#a09f98;
--line:#35373b;--accent:#f0855c;--soft:#3a241b;--loss:#7fb4ee;--dots:#7fb4ee88;--held:#f0855c;--rate:#b7c46a;
--mark:#6a6b6d}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",
Roboto,"Noto Sans","Noto Sans CJK SC","Microsoft YaHei",sans-serif;-webkit-text-size-adjust:100%}
main{max-width:1360px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:2rem;line-height:1.2;margin:0;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:40px 0 12px}
h3{font-size:1rem;margin:20px 0 6px;text-transform:capitalize}
p{margin:6px 0;max-width:80ch}
.faint{color:var(--faint)}
.lead{color:var(--faint);margin:4px 0 0;overflow-wrap:anywhere}
.trigger{margin:14px 0 0;overflow-wrap:anywhere}
.chip,mark{background:var(--soft);color:var(--accent);border-radius:5px;padding:1px 6px;font-weight:600}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:16px}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(170px,1fr));gap:14px 20px;margin:20px 0 0}
.facts div{min-width:0}
dt{color:var(--faint);font-size:.82rem}
dd{margin:0;overflow-wrap:anywhere}
.scroll{overflow-x:auto;-webkit-overflow-scrolling:touch}
.previews{table-layout:fixed;border-collapse:separate;border-spacing:8px 4px;margin:-4px -8px;width:100%;
min-width:calc(var(--columns)*96px);max-width:calc(var(--columns)*360px)}
.previews th{font-weight:400;font-size:.85rem;color:var(--faint);text-align:left;vertical-align:bottom}
.previews th.prompt{padding-top:12px;color:var(--ink);font-size:1rem;white-space:normal}
.previews .prompt span{position:sticky;left:0;display:inline-block;max-width:min(84vw,60rem);
overflow-wrap:anywhere}
.previews td{padding:0;vertical-align:top}
.previews img{display:block;width:100%;height:auto;border-radius:6px}
.previews .proposed img{outline:3px solid var(--accent);outline-offset:1px}
.previews th.proposed{color:var(--accent);font-weight:600}
.none{color:var(--faint);font-size:.85rem}
.chart{display:block;width:100%;max-width:1080px;margin:0 auto;min-width:620px;height:auto;
font:13px system-ui,"Segoe UI",Roboto,sans-serif}
.chart path{fill:none;stroke-linejoin:round;stroke-linecap:round}
.chart .grid{stroke:var(--line)}
.chart text{fill:var(--ink)}
.chart .tick{fill:var(--faint)}
.chart .rate-tick{fill:var(--rate)}
.chart .raw-dots{stroke:var(--dots)}
.chart .smooth{stroke:var(--loss);stroke-width:2.2}
.chart .rate{stroke:var(--rate);stroke-width:1.4}
.chart .held_out{stroke:var(--held);stroke-width:2}
.chart .held_out-dots{stroke:var(--held)}
.chart .held_out-dot{fill:var(--held)}
.chart .base{stroke:var(--faint);stroke-dasharray:5 5}
.chart .best-dot{fill:var(--card);stroke:var(--held);stroke-width:2.5}
.chart .best-dots{stroke:var(--held)}
.chart .mark{stroke:var(--mark);stroke-dasharray:2 4}
.chart .proposed{stroke:var(--accent);stroke-width:1.6}
.chart .proposed-label{fill:var(--accent);font-weight:600}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:14px}
figure{margin:0;min-width:0;background:var(--card);border:1px solid var(--line);border-radius:10px;
overflow:hidden}
figure img{display:block;width:100%;height:auto;aspect-ratio:1;object-fit:contain;background:var(--line)}
figcaption{padding:8px 10px 10px;font-size:.85rem;line-height:1.4;overflow-wrap:anywhere;
unicode-bidi:isolate}
figcaption small{display:block;color:var(--faint)}
.caption{display:-webkit-box;-webkit-line-clamp:6;-webkit-box-orient:vertical;overflow:hidden}
ul{margin:0;padding-left:1.2em}
li{margin:4px 0;overflow-wrap:anywhere}
details{margin:12px 0;background:var(--card);border:1px solid var(--line);border-radius:12px;padding:4px 16px}
summary{cursor:pointer;padding:10px 0;font-weight:600}
.sections{columns:320px;column-gap:32px;padding-bottom:12px}
.sections section{break-inside:avoid}
.values{width:100%;border-collapse:collapse;font-size:.88rem}
.values td{padding:3px 0;border-top:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}
.values td:first-child{white-space:nowrap}
.values td+td{white-space:pre-line;padding-left:12px;text-align:right}
.changed td{font-weight:600}
.changed td:first-child::before{content:"\\25CF";color:var(--accent);margin-right:6px}
.values small{display:block;font-weight:400;color:var(--faint)}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font:.85rem/1.5 ui-monospace,Consolas,monospace;
margin:0 0 14px}
@media (max-width:600px){.previews{min-width:calc(var(--columns)*140px)}main{padding:20px 14px 48px}
h1{font-size:1.6rem}.card{padding:12px}
.sheet{grid-template-columns:repeat(auto-fill,minmax(130px,1fr));gap:10px}
.facts{grid-template-columns:repeat(2,minmax(0,1fr))}}
@media print{.scroll{overflow:visible}details{break-inside:avoid}}
"""
