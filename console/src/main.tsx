import { render } from "preact";
import { App } from "./app";
import "uplot/dist/uPlot.min.css";
import "./styles/base.css";
import "./styles/parts.css";
import { apply, theme } from "./theme";

apply(theme());
render(<App />, document.getElementById("app")!);
