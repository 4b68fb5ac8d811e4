// Settings of OHIF 3.13 for the pictures in docs/viewers.md: one DICOMweb source on the same host, and a hanging
// protocol that puts the CT left and the synthetic series right. A site can copy the extension into its own file.

const scrollTogether = [
  // By image position, not by number: both series must have the same Frame of Reference, which the node copies.
  { type: 'imageslice', id: 'ctAndSynthetic', source: true, target: true },
  { type: 'zoompan', id: 'ctAndSyntheticZoom', source: true, target: true },
];

const syntheticSeries = {
  seriesMatchingRules: [
    { attribute: 'Modality', constraint: { equals: { value: 'MR' } }, required: true },
    { attribute: 'SeriesDescription', constraint: { startsWith: { value: 'SYNTHETIC' } }, required: true, weight: 10 },
  ],
};

// Of several CT series the one that looks like the soft-tissue stack; in doubt another can be dragged in.
const sourceSeries = {
  seriesMatchingRules: [
    { attribute: 'Modality', constraint: { equals: { value: 'CT' } }, required: true },
    { attribute: 'numImageFrames', constraint: { greaterThan: { value: 9 } }, required: true },
    { attribute: 'SeriesDescription', constraint: { doesNotContainI: 'bone' }, weight: 5 },
  ],
};

function viewport(displaySet, syncGroups) {
  return {
    viewportOptions: {
      toolGroupId: 'default',
      viewportType: 'stack',
      initialImageOptions: { preset: 'middle' },
      syncGroups,
    },
    displaySets: [{ id: displaySet }],
  };
}

function protocol(id, name, columns, viewports) {
  return {
    id,
    name,
    protocolMatchingRules: [],
    displaySetSelectors: { source: sourceSeries, synthetic: syntheticSeries },
    stages: [
      {
        name,
        viewportStructure: { layoutType: 'grid', properties: { rows: 1, columns } },
        viewports,
      },
    ],
  };
}

const beside = protocol('ctBesideSynthetic', 'CT beside synthetic series', 2, [
  viewport('source', scrollTogether),
  viewport('synthetic', scrollTogether),
]);
const mprViewport = orientation => ({
  viewportOptions: {
    toolGroupId: 'mpr',
    viewportType: 'volume',
    orientation,
    initialImageOptions: { preset: 'middle' },
  },
  displaySets: [{ id: 'synthetic' }],
});
const mpr = protocol('syntheticMpr', 'Synthetic series reformatted', 3, ['axial', 'sagittal', 'coronal'].map(mprViewport));
const alone = protocol('syntheticAlone', 'Synthetic series alone', 1, [viewport('synthetic', [])]);

window.config = {
  routerBasename: null,
  extensions: [
    {
      id: 'jmmda-node.hanging',
      getHangingProtocolModule: () => [beside, alone, mpr].map(one => ({ name: one.id, protocol: one })),
    },
  ],
  modes: [],
  customizationService: {},
  showStudyList: true,
  maxNumberOfWebWorkers: 1,
  showWarningMessageForCrossOrigin: false,
  showCPUFallbackMessage: false,
  showLoadingIndicator: true,
  strictZSpacingForVolumeViewport: true,
  investigationalUseDialog: { option: 'never' },
  defaultDataSourceName: 'orthanc',
  dataSources: [
    {
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'orthanc',
      configuration: {
        friendlyName: 'Orthanc',
        name: 'orthanc',
        wadoUriRoot: '/wado',
        qidoRoot: '/dicom-web',
        wadoRoot: '/dicom-web',
        qidoSupportsIncludeField: false,
        imageRendering: 'wadors',
        thumbnailRendering: 'wadors',
        enableStudyLazyLoad: true,
        supportsFuzzyMatching: false,
        supportsWildcard: true,
        omitQuotationForMultipartRequest: true,
      },
    },
  ],
};
